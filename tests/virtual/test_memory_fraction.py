"""`torch.cuda.set_per_process_memory_fraction` on the virtual GPU."""

from __future__ import annotations

from unittest.mock import Mock

from memgraph.gpu.allocator.caching import Allocator
from memgraph.gpu.specs import find
from memgraph.virtual.cuda import Devices, answers


def test_a_share_is_a_limit_and_all_of_it_is_none() -> None:
    # As torch 2.11 to 2.15: with 1.0 nothing is "allowed" in its refusals, and no garbage is collected.
    card, allocator = find("rtx3090"), Allocator(2**34)
    book = Mock(allocator=allocator)
    set_fraction = answers(card, book, lambda: None, Devices(), lambda _: ())["set_per_process_memory_fraction"]
    set_fraction(0.5)
    assert allocator.limit == card.memory // 2
    set_fraction(1.0)
    assert allocator.limit is None
