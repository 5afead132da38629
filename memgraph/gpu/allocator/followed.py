"""The blocks of an allocator whose addresses are known: what each takes, which its request does not say.

A block that is not split is larger than asked, by up to 1 MiB. Where it begins says which free block it was taken of,
and `should_split` of c10/cuda/CUDACachingAllocator.cpp (torch 2.0 to 2.15) whether what was left over was split off. So
the model need not find the block, and cannot find another one.
"""

from __future__ import annotations

import functools
from bisect import bisect_left
from collections.abc import Iterable, Sequence

from memgraph.gpu.allocator.config import AllocatorConfig
from memgraph.gpu.allocator.rounding import MIN_BLOCK, SMALL_SIZE, round_size

_ENDLESS = 2**62
_SIZES = 4096
"""Distinct sizes whose blocks are kept in mind."""


class Followed:
    """Free and taken blocks by their addresses. All sizes are bytes."""

    def __init__(self, config: AllocatorConfig) -> None:
        self._config = config
        self._rounded = functools.lru_cache(_SIZES)(functools.partial(round_size, config=config))
        self._max_split = config.max_split_size or _ENDLESS
        self._free: dict[int, int] = {}
        """Where each free block begins, and where it ends."""
        self._ends: dict[int, int] = {}
        """The same the other way round."""
        self._borders: set[int] = set()
        """Where segments begin: blocks are not merged across."""
        self._taken: dict[int, int] = {}

    def map(self, address: int, size: int, *, whole: bool) -> None:
        """The card gave memory.

        Args:
            whole: it is a segment; and not a piece of one that is expandable, which is one with what it touches.
        """
        if whole:
            self._borders.update((address, address + size))
        self._add(address, address + size)

    def occupy(self, blocks: Iterable[tuple[int, int, bool]]) -> dict[int, int]:
        """Blocks that were there before anybody looked, by address: what each takes.

        Args:
            blocks: address and bytes of each, and whether these are the block's own or its request's.
        """
        rows = sorted(blocks)
        for start, stop in sorted(self._free.items()):
            inside = rows[bisect_left(rows, (start,)) : bisect_left(rows, (stop,))]
            del self._free[start], self._ends[stop]
            self._fill(start, stop, inside)
        for address, size, exact in rows:
            if address not in self._taken:  # nobody saw its memory come
                self._taken[address] = size if exact else round_size(size, self._config)
        return {address: self._taken[address] for address, _, _ in rows}

    def _fill(self, at: int, end: int, blocks: Sequence[tuple[int, int, bool]]) -> None:
        """Blocks in a free stretch, with free blocks between them."""
        stops = [address for address, _, _ in blocks[1:]] + [end]
        for (address, size, exact), stop in zip(blocks, stops, strict=bool(blocks)):
            if at < address:
                self._free[at], self._ends[address] = address, at
            taken = size if exact else round_size(size, self._config)
            if not exact and not self._splits(taken, stop - address - taken):
                taken = stop - address
            at = address + min(taken, stop - address)
            self._taken[address] = at - address
        if at < end:
            self._free[at], self._ends[end] = end, at

    def unmap(self, address: int, size: int) -> None:
        """It was given back; nothing is there but free blocks."""
        stop = address + size
        if address not in self._free:  # a piece of a block
            start = next((one for one, end in self._free.items() if one < address < end), None)
            if start is None:
                return
            self._cut(start, address)
        end = self._free.pop(address)
        del self._ends[end]
        if end > stop:
            self._free[stop], self._ends[end] = end, stop
        self._borders -= {address, stop}

    def _cut(self, start: int, place: int) -> None:
        end = self._free[start]
        self._free[start], self._ends[place] = place, start
        self._free[place], self._ends[end] = end, place

    def take(self, address: int, size: int, known: int = 0) -> int:
        """A request was served here; the bytes of its block.

        Args:
            size: as it was asked for.
            known: what the block has, if somebody knows.
        """
        rounded = known or self._rounded(size)
        end = self._free.pop(address, None)
        if end is None:  # nobody saw this memory come
            self._taken[address] = rounded
            return rounded
        left = end - address - rounded
        if known == 0 and left > 0 and not self._splits(rounded, left):
            rounded, left = end - address, 0
        self._ends.pop(end, None)
        if left > 0:
            self._free[address + rounded], self._ends[end] = end, address + rounded
        self._taken[address] = rounded
        return rounded

    def _splits(self, rounded: int, left: int) -> bool:
        """`should_split`."""
        if rounded <= SMALL_SIZE or self._config.expandable_segments:
            return left >= MIN_BLOCK
        return rounded < self._max_split and left > SMALL_SIZE

    def give(self, address: int) -> int:
        """A block is free again; its bytes."""
        size = self._taken.pop(address)
        self._add(address, address + size)
        return size

    def _add(self, start: int, stop: int) -> None:
        """One with the free blocks that it touches."""
        if start not in self._borders and start in self._ends:
            start = self._ends.pop(start)
        if stop not in self._borders and stop in self._free:
            stop = self._free.pop(stop)
        self._free[start], self._ends[stop] = stop, start
