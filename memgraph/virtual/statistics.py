"""The allocator's statistics as `torch.cuda.memory_stats` tells them, counted from what the ledger has written down.

Nothing is counted while the run goes on: who asks has the events read since the last time. Source:
c10/cuda/CUDACachingAllocator.cpp (`alloc_found_block`, `free`, `free_block`, `try_merge_blocks`), and
torch/csrc/cuda/Module.cpp (`THCPModule_memoryStats`).
"""

from __future__ import annotations

from bisect import bisect_right, insort
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from typing import Any, Protocol

from memgraph.gpu.allocator.caching import Allocator
from memgraph.trace import Action

Row = tuple[int, int, int, int, int]
"""Action, buffer (-1 for none), op, address, bytes."""

_SMALL = 2**20
"""Bytes up to which a block is of the small pool (`kSmallSize`); larger ones are of the large pool."""
_SMALL_SEGMENT = 2**21
_POOLED = (
    "active", "active_bytes", "allocated_bytes", "allocation", "inactive_split", "inactive_split_bytes",
    "requested_bytes", "reserved_bytes", "segment",
)  # fmt: skip
_OVERSIZE = ("oversize_allocations", "oversize_segments")


class Log(Protocol):
    """What is read of a ledger."""

    @property
    def allocator(self) -> Allocator: ...

    @property
    def sizes(self) -> Sequence[int]: ...

    def rows(self, start: int) -> Iterator[Row]: ...


class Figure:
    """One statistic of one pool: as much now, the most, and how much came and went."""

    __slots__ = ("allocated", "current", "freed", "peak")

    def __init__(self) -> None:
        self.current = self.peak = self.allocated = self.freed = 0

    def change(self, by: int) -> None:
        self.current += by
        if by > 0:
            self.allocated += by
            self.peak = max(self.peak, self.current)
        else:
            self.freed -= by


class Statistics:
    """The statistics of one run.

    Args:
        log: its ledger.
    """

    def __init__(self, log: Log) -> None:
        self._log = log
        self._read = self._mallocs = self._frees = 0
        self._figures = {(name, pool): Figure() for name in _POOLED for pool in ("all", "small_pool", "large_pool")}
        self._oversize = {name: Figure() for name in _OVERSIZE}
        self._gaps = Gaps(expandable=log.allocator.config.expandable_segments)

    def now(self) -> OrderedDict[str, int]:
        """All of them, in torch's order: sorted by name. Bytes and numbers."""
        self._catch_up()
        allocator = self._log.allocator
        named = {(f"{name}.{pool}"): figure for (name, pool), figure in self._figures.items()} | self._oversize
        stats = {
            f"{name}.{part}": getattr(figure, part)
            for name, figure in named.items()
            for part in ("current", "peak", "allocated", "freed")
        }
        stats |= {
            "num_alloc_retries": allocator.num_alloc_retries, "num_ooms": allocator.num_ooms,
            "max_split_size": allocator.config.max_split_size or -1, "num_device_alloc": self._mallocs,
            "num_sync_all_streams": allocator.num_sync_all_streams, "num_device_free": self._frees,
        }  # fmt: skip
        return OrderedDict(sorted(stats.items()))

    def nested(self) -> dict[str, Any]:
        """As `torch.cuda.memory_stats_as_nested_dict`."""
        nested: dict[str, Any] = {}
        for name, value in self.now().items():
            *outer, last = name.split(".")
            place = nested
            for part in outer:
                place = place.setdefault(part, {})
            place[last] = value
        return nested

    def reset_peaks(self) -> None:
        """The peaks start again from what is there now."""
        self._catch_up()
        for figure in (*self._figures.values(), *self._oversize.values()):
            figure.peak = figure.current

    def reset_sums(self) -> None:
        """What came and went is counted from now on."""
        self._catch_up()
        for figure in (*self._figures.values(), *self._oversize.values()):
            figure.allocated = figure.freed = 0

    def _catch_up(self) -> None:
        for row in self._log.rows(self._read):
            self._read += 1
            self._follow(*row)

    def _follow(self, action: int, buffer: int, _op: int, address: int, size: int) -> None:
        if action == Action.ALLOC:
            self._block(size, self._log.sizes[buffer], 1, ("allocation", "active"))
            self._split(size, self._gaps.fill(address, size))
        elif action == Action.FREE:
            self._block(size, self._log.sizes[buffer], -1, ("allocation", "active"))
            self._split(size, self._gaps.empty(address, size))
        elif action == Action.FREE_REQUESTED:
            self._block(size, 0, -1, ("allocation",))
        elif action == Action.FREE_COMPLETED:
            self._block(size, self._log.sizes[buffer], -1, ("active",))
            self._split(size, self._gaps.empty(address, size))
        elif action in (Action.SEGMENT_ALLOC, Action.SEGMENT_FREE):
            self._segment(address, size, 1 if action == Action.SEGMENT_ALLOC else -1)

    def _block(self, size: int, requested: int, sign: int, counted: Sequence[str]) -> None:
        pool = "small_pool" if size <= _SMALL else "large_pool"
        for name in counted:
            self._change(name, pool, sign)
            self._change("allocated_bytes" if name == "allocation" else "active_bytes", pool, sign * size)
        if requested:
            self._change("requested_bytes", pool, sign * requested)
        limit = self._log.allocator.config.max_split_size
        if limit and size >= limit and "allocation" in counted:
            self._oversize["oversize_allocations"].change(sign)

    def _split(self, size: int, change: tuple[int, int]) -> None:
        pool = "small_pool" if size <= _SMALL else "large_pool"
        for name, by in zip(("inactive_split", "inactive_split_bytes"), change, strict=True):
            if by:
                self._change(name, pool, by)

    def _segment(self, address: int, size: int, sign: int) -> None:
        pool = "small_pool" if self._is_small(address, size) else "large_pool"
        self._change("segment", pool, sign)
        self._change("reserved_bytes", pool, sign * size)
        self._mallocs += sign > 0
        self._frees += sign < 0
        for name, by in zip(("inactive_split", "inactive_split_bytes"), self._gaps.reserve(address, size, sign),
                            strict=True):  # fmt: skip
            if by:
                self._change(name, pool, by)
        limit = self._log.allocator.config.max_split_size
        if limit and size >= limit:
            self._oversize["oversize_segments"].change(sign)

    def _is_small(self, address: int, size: int) -> bool:
        """Whether a segment, or pages of an expandable one, are of the small pool."""
        if self._log.allocator.config.expandable_segments:
            for segment in self._log.allocator.segments.values():
                if segment.expandable and segment.address <= address < segment.address + segment.size:
                    return segment.small
        return size <= _SMALL_SEGMENT

    def _change(self, name: str, pool: str, by: int) -> None:
        self._figures[name, "all"].change(by)
        self._figures[name, pool].change(by)


class Gaps:
    """The free parts of segments that are in use: each answer is by how many they became more, and by how many bytes.

    A segment of which nothing is in use is one whole block, and none of them.
    """

    def __init__(self, *, expandable: bool) -> None:
        self._expandable = expandable
        self._starts: list[int] = []
        self._ends: dict[int, int] = {}
        """Of each segment, by its start."""
        self._used: dict[int, int] = {}
        self._pieces: dict[int, int] = {}
        """How many free parts it has."""
        self._block_starts: set[int] = set()
        self._block_ends: set[int] = set()

    def reserve(self, address: int, size: int, sign: int) -> tuple[int, int]:
        """A segment came or went; an expandable one grows at its end."""
        if sign < 0:
            return self._give_back(address, size)
        before = self._segment_of(address - 1) if self._expandable and self._starts else None
        if before is not None and self._ends[before] == address:
            known = self._told(before)
            self._pieces[before] += address in self._block_ends
            self._ends[before] += size
            return self._difference(before, known)
        insort(self._starts, address)
        self._ends[address], self._used[address], self._pieces[address] = address + size, 0, 1
        return 0, 0

    def fill(self, address: int, size: int) -> tuple[int, int]:
        """A block is in use."""
        segment, known, neighbours = self._around(address, size)
        self._used[segment] += size
        self._pieces[segment] += 1 - neighbours
        self._block_starts.add(address)
        self._block_ends.add(address + size)
        return self._difference(segment, known)

    def empty(self, address: int, size: int) -> tuple[int, int]:
        """A block is free again."""
        self._block_starts.discard(address)
        self._block_ends.discard(address + size)
        segment, known, neighbours = self._around(address, size)
        self._used[segment] -= size
        self._pieces[segment] -= 1 - neighbours
        return self._difference(segment, known)

    def _around(self, address: int, size: int) -> tuple[int, tuple[int, int], int]:
        """The segment, what it counted, and on how many sides of the stretch there is nothing free."""
        segment = self._segment_of(address)
        left = address == segment or address in self._block_ends
        right = address + size == self._ends[segment] or address + size in self._block_starts
        return segment, self._told(segment), left + right

    def _give_back(self, address: int, size: int) -> tuple[int, int]:
        segment = self._segment_of(address)
        known = self._told(segment)
        if segment == address and self._ends[segment] == address + size:
            self._starts.remove(segment)
            del self._ends[segment], self._used[segment], self._pieces[segment]
            return -known[0], -known[1]
        self._ends[segment] -= size  # pages of an expandable one
        return self._difference(segment, known)

    def _segment_of(self, address: int) -> int:
        return self._starts[max(0, bisect_right(self._starts, address) - 1)]

    def _told(self, segment: int) -> tuple[int, int]:
        used = self._used[segment]
        return (self._pieces[segment], self._ends[segment] - segment - used) if used else (0, 0)

    def _difference(self, segment: int, known: tuple[int, int]) -> tuple[int, int]:
        pieces, size = self._told(segment)
        return pieces - known[0], size - known[1]
