"""The refusal, in PyTorch's words. `test_against_torch.py` compares it with what torch 2.11 to 2.15 themselves
said; here are the rules behind it."""

from __future__ import annotations

from typing import Any

import pytest

from memgraph.gpu.allocator.caching import Allocator
from memgraph.gpu.allocator.config import AllocatorConfig
from memgraph.gpu.allocator.out_of_memory import OutOfMemory, _size

MIB = 2**20


def refusal(**changes: Any) -> OutOfMemory:
    """5 MiB asked of a card of 100, of which 92 are reserved and 80.5 allocated."""
    facts: dict[str, Any] = {
        "segment": 20 * MIB, "capacity": 100 * MIB, "reserved": 92 * MIB, "allocated": 161 * MIB // 2, "torch": (2, 11),
    }  # fmt: skip
    return OutOfMemory(5 * MIB, **{**facts, **changes})


def test_the_whole_message() -> None:
    # 102 in all − 92 − 2 = 8 are free; 92 + 2 in use; 92 − 80.5 reserved and not allocated. The request is for 5, but
    # what could not be had is the segment of 20.
    assert refusal().message(102 * MIB, 2 * MIB) == (
        "CUDA out of memory. Tried to allocate 20.00 MiB. GPU 0 has a total capacity of 102.00 MiB of which 8.00 MiB "
        "is free. Including non-PyTorch memory, this process has 94.00 MiB memory in use. Of the allocated memory "
        "80.50 MiB is allocated by PyTorch, and 11.50 MiB is reserved by PyTorch but unallocated. If reserved but "
        "unallocated memory is large try setting PYTORCH_CUDA_ALLOC_CONF=expandable_segments:True to avoid "
        "fragmentation.  See documentation for Memory Management  "
        "(https://docs.pytorch.org/docs/stable/notes/cuda.html#optimizing-memory-usage-with-pytorch-cuda-alloc-conf)"
    )


def test_the_sizes_add_up_where_less_than_the_card_may_be_used() -> None:
    # 24,000 MiB: 100 for the allocator, 8 of which are free, 300 for the context, and the rest for others.
    said = refusal().message(24000 * MIB, 300 * MIB)
    assert (
        "a total capacity of 23.44 GiB of which 8.00 MiB is free. Other processes are taken to have 23.05 GiB " in said
    )
    assert "memory in use. Including non-PyTorch memory, this process has 392.00 MiB memory in use. Of" in said


def test_what_is_allowed_is_said_where_there_is_a_limit() -> None:
    message = refusal(limit=95 * MIB).message(110 * MIB, 0)
    assert " memory in use. 95.00 MiB allowed; Of the allocated memory " in message
    assert "allowed;" not in refusal().message(110 * MIB, 0)


def test_nothing_free_is_zero_not_less() -> None:
    assert " of which 0 bytes is free. " in refusal().message(90 * MIB, 0)


@pytest.mark.parametrize(
    ("torch", "expandable", "advice"),
    [
        ((2, 11), False, "avoid fragmentation"), ((2, 15), False, "avoid fragmentation"),
        ((2, 13), True, "avoid fragmentation"), ((2, 14), True, ""), ((2, 15), True, "expandable_segments_reserve"),
    ],
)  # fmt: skip
def test_the_advice_depends_on_the_version(torch: tuple[int, int], expandable: bool, advice: str) -> None:
    end = refusal(torch=torch, expandable=expandable).message(110 * MIB, 0).partition("but unallocated.")[2]
    assert advice in end if advice else end == ""


@pytest.mark.parametrize(
    ("size", "text"),
    [
        (0, "0 bytes"), (1024, "1024 bytes"), (1025, "1.00 KiB"), (MIB, "1024.00 KiB"), (MIB + 1, "1.00 MiB"),
        (2**30, "1024.00 MiB"), (2**30 + 1, "1.00 GiB"), (3_001_024_512, "2.79 GiB"),
    ],
)  # fmt: skip
def test_sizes_as_torch_prints_them(size: int, text: str) -> None:
    assert _size(size) == text


@pytest.mark.parametrize(
    ("asked", "settings", "said"),
    [
        (600, "", "2.00 MiB"), (5 * MIB, "", "20.00 MiB"), (11 * MIB, "", "12.00 MiB"),
        (5 * MIB, "large_segment_size_mb:30", "30.00 MiB"), (33 * MIB, "roundup_power2_divisions:4", "40.00 MiB"),
    ],
)  # fmt: skip
def test_the_allocator_says_what_it_wanted_from_the_card(asked: int, settings: str, said: str) -> None:
    with pytest.raises(OutOfMemory) as caught:
        Allocator(MIB, AllocatorConfig.parse(settings)).malloc(asked)
    assert f"Tried to allocate {said}. " in caught.value.message(MIB, 0)
    assert str(caught.value) == f"out of memory: {asked} bytes asked, 0 of {MIB} reserved"
