"""A block that waits for another stream when the cache is emptied comes back with its own size, not with that of the
segment that it is merged into."""

from __future__ import annotations

import torch

import memgraph
from memgraph.trace import Action

MIB = 2**20


def test_it_comes_back_with_its_own_size() -> None:
    """4 MiB in a segment of 20: after the cache is emptied nothing is active, and nothing less than nothing."""
    with memgraph.virtual_gpu("h200") as gpu:
        other = torch.cuda.Stream()
        used = torch.empty(4 * MIB, dtype=torch.uint8, device="cuda")
        used.record_stream(other)
        del used
        waiting = torch.cuda.memory_stats()["active_bytes.all.current"]
        torch.cuda.empty_cache()
        emptied = torch.cuda.memory_stats()["active_bytes.all.current"]
    assert (waiting, emptied) == (4 * MIB, 0)
    returned = [event.size for event in gpu.trace.events if event.action is Action.FREE_COMPLETED]
    assert returned == [4 * MIB]
