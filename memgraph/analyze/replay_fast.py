"""What the caching allocator would reserve for a list of requests: `memgraph.gpu.allocator.caching` in less than half
the time.

A search over batches asks this hundreds of times for some 25,000 events each, so blocks are integers into columns and
a free list is one sorted list of integers, size first, then address; where blocks of one size go by the age of their
segment, addresses are given in that order. Only the plain configuration is done here, on one stream; any other, and
torch 2.12, goes to the model itself. `tests/analyze/test_replay_fast.py` proves that both give the same.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Sequence
from typing import NamedTuple

from memgraph.gpu.allocator.blocks import Block
from memgraph.gpu.allocator.caching import Allocator
from memgraph.gpu.allocator.config import AllocatorConfig
from memgraph.gpu.allocator.out_of_memory import OutOfMemory
from memgraph.gpu.allocator.rounding import (
    LARGE_BUFFER,
    MIN_BLOCK,
    MIN_LARGE_ALLOC,
    ROUND_LARGE,
    SMALL_BUFFER,
    SMALL_SIZE,
)
from memgraph.gpu.allocator.segments import DownwardSlots, Upward
from memgraph.gpu.allocator.ties import NEWEST, Ties

_ADDRESS_BITS = 48
_ADDRESS = (1 << _ADDRESS_BITS) - 1
_PLAIN = AllocatorConfig()


class Replayed(NamedTuple):
    """What the allocator did, in bytes; of a run that was refused, up to the refusal."""

    fits: bool
    allocated: int
    """The highest."""
    reserved: int
    """The highest."""


def replay(
    events: Sequence[int],
    sizes: Sequence[int],
    capacity: int,
    config: AllocatorConfig = _PLAIN,
    *,
    torch: tuple[int, int] = NEWEST,
    total: int | None = None,
    streams: Sequence[int] = (),
) -> Replayed:
    """Put requests through the caching allocator of an empty card, until one is refused.

    Args:
        events: buffer `b` is allocated, or freed where `~b` stands.
        sizes: requested bytes of each buffer, all above 0.
        capacity: bytes that the card can give.
        config: as PYTORCH_CUDA_ALLOC_CONF.
        torch: (major, minor) of the torch whose allocator it is.
        total: bytes of the card's memory; default `capacity`.
        streams: that each buffer is allocated on; default one for all.
    """
    ties = Ties.of(torch)
    several = any(streams)
    if config != _PLAIN or ties is Ties.BLOCK or several:
        allocator = Allocator(capacity, config, torch=torch, total=total)
        return _replay_model(events, sizes, streams if several else [0] * len(sizes), allocator)
    return _Plain(capacity, ties).run(events, sizes)


def _replay_model(
    events: Sequence[int], sizes: Sequence[int], streams: Sequence[int], allocator: Allocator
) -> Replayed:
    blocks: dict[int, Block] = {}
    try:
        for event in events:
            if event >= 0:
                blocks[event] = allocator.malloc(sizes[event], streams[event])
            else:
                allocator.free(blocks.pop(~event))
    except OutOfMemory:
        return Replayed(False, allocator.peak_allocated, allocator.peak_reserved)
    return Replayed(True, allocator.peak_allocated, allocator.peak_reserved)


class _Plain:
    """The allocator in its plain configuration. Blocks are numbers; -1 stands for none."""

    def __init__(self, capacity: int, ties: Ties) -> None:
        self.capacity = capacity
        self.reserved = self.peak_reserved = 0
        self.address: list[int] = []
        self.size: list[int] = []
        self.previous: list[int] = []
        self.next: list[int] = []
        self.free: list[bool] = []
        self.small: list[bool] = []
        self.pools: tuple[list[int], list[int]] = ([], [])
        """Of the large and of the small blocks: size and address in one number, sorted."""
        self.at: dict[int, int] = {}
        """The free block at an address."""
        self.place = (DownwardSlots() if ties is Ties.ADDRESS else Upward()).place

    def run(self, events: Sequence[int], sizes: Sequence[int]) -> Replayed:
        """Serve all events. One long loop on purpose: calls would take half of the time."""
        address, size, previous, following, free, small = (
            self.address, self.size, self.previous, self.next, self.free, self.small,
        )  # fmt: skip
        pools, at = self.pools, self.at
        held = [-1] * len(sizes)
        allocated = peak = 0
        for event in events:
            if event >= 0:
                wanted = -(-sizes[event] // MIN_BLOCK) * MIN_BLOCK
                is_small = wanted <= SMALL_SIZE
                pool = pools[is_small]
                place = bisect_left(pool, wanted << _ADDRESS_BITS)
                if place < len(pool):
                    block = at.pop(pool.pop(place) & _ADDRESS)
                else:
                    block = self.segment(wanted, is_small)
                    if block < 0:
                        return Replayed(False, peak, self.peak_reserved)
                rest = size[block] - wanted
                if rest >= MIN_BLOCK if is_small else rest > SMALL_SIZE:
                    cut = len(size)
                    after = following[block]
                    address.append(address[block] + wanted)
                    size.append(rest)
                    previous.append(block)
                    following.append(after)
                    free.append(True)
                    small.append(is_small)
                    if after >= 0:
                        previous[after] = cut
                    following[block] = cut
                    size[block] = wanted
                    at[address[cut]] = cut
                    insort(pool, rest << _ADDRESS_BITS | address[cut])
                free[block] = False
                held[event] = block
                allocated += size[block]
                if allocated > peak:
                    peak = allocated
            else:
                block = held[~event]
                allocated -= size[block]
                pool = pools[small[block]]
                after = following[block]
                if after >= 0 and free[after]:
                    del pool[bisect_left(pool, size[after] << _ADDRESS_BITS | address[after])]
                    del at[address[after]]
                    size[block] += size[after]
                    further = following[block] = following[after]
                    if further >= 0:
                        previous[further] = block
                before = previous[block]
                if before >= 0 and free[before]:
                    del pool[bisect_left(pool, size[before] << _ADDRESS_BITS | address[before])]
                    size[before] += size[block]
                    further = following[before] = following[block]
                    if further >= 0:
                        previous[further] = before
                    block = before
                free[block] = True
                at[address[block]] = block
                insort(pool, size[block] << _ADDRESS_BITS | address[block])
        return Replayed(True, peak, self.peak_reserved)

    def segment(self, wanted: int, is_small: bool) -> int:
        """A block that is a new segment; if the card is full, after all unused ones were given back. -1: refused."""
        length = (
            SMALL_BUFFER if is_small
            else LARGE_BUFFER if wanted < MIN_LARGE_ALLOC
            else -(-wanted // ROUND_LARGE) * ROUND_LARGE
        )  # fmt: skip
        if self.reserved + length > self.capacity:
            self.empty_cache()
            if self.reserved + length > self.capacity:
                return -1
        self.reserved += length
        self.peak_reserved = max(self.peak_reserved, self.reserved)
        columns = (self.address, self.size, self.previous, self.next, self.free, self.small)
        for column, value in zip(columns, (self.place(length), length, -1, -1, False, is_small), strict=True):
            column.append(value)  # type: ignore[attr-defined]
        return len(self.size) - 1

    def empty_cache(self) -> None:
        """Give back every segment that is one free block."""
        for pool in self.pools:
            for key in list(pool):
                block = self.at[key & _ADDRESS]
                if self.previous[block] < 0 and self.next[block] < 0:
                    pool.remove(key)
                    del self.at[key & _ADDRESS]
                    self.reserved -= self.size[block]
