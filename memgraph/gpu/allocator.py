"""PyTorch's CUDA caching allocator, as a model: the same blocks, the same addresses, the same out-of-memory.

Written from c10/cuda/CUDACachingAllocator.cpp of torch 2.11 to 2.15 (`DeviceCachingAllocator`). Requests are rounded to
512 bytes and served from cached blocks by best fit (size, then address); segments of 2 MiB serve small requests (up to
1 MiB), 20 MiB those below 10 MiB, larger ones get their own, rounded to 2 MiB. Blocks are split, and merged with their
neighbours when freed. When the card is full, cached segments are given back and the request is tried again.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Callable, Iterator

from memgraph.gpu.allocator_config import AllocatorConfig
from memgraph.gpu.out_of_memory import OutOfMemory
from memgraph.gpu.segments import DownwardSlots, SegmentAddresses

MIB = 2**20
MIN_BLOCK = 512
SMALL_SIZE = 1 * MIB
SMALL_BUFFER = 2 * MIB
LARGE_BUFFER = 20 * MIB
MIN_LARGE_ALLOC = 10 * MIB
ROUND_LARGE = 2 * MIB

OnSegment = Callable[[bool, int, int], None]
"""Told of segments: True when one is taken from the card, its address and its bytes."""


class Segment:
    """Memory taken from the card. An expandable one reserves addresses and maps pages of them as needed."""

    __slots__ = ("address", "expandable", "first", "page", "size", "small", "stream")

    def __init__(self, address: int, size: int, small: bool, stream: int, page: int = 0) -> None:
        self.address = address
        self.size = size
        self.small = small
        self.stream = stream
        self.page = page
        """Bytes that are mapped at once; 0 for a plain segment."""
        self.expandable = page > 0
        self.first: Block = Block(address, size, self)

    def blocks(self) -> Iterator[Block]:
        """Its blocks in order of address."""
        block: Block | None = self.first
        while block is not None:
            yield block
            block = block.next


class Block:
    """A stretch of a segment. `size` counts as allocated while it is in use; `requested` is what was asked."""

    __slots__ = ("address", "age", "in_use", "mapped", "next", "previous", "requested", "segment", "size")

    def __init__(self, address: int, size: int, segment: Segment) -> None:
        self.address = address
        self.size = size
        self.segment = segment
        self.requested = 0
        self.in_use = False
        self.mapped = True
        self.previous: Block | None = None
        self.next: Block | None = None
        self.age = 0


class _Pool:
    """The free blocks of one stream and kind, sorted by (size, address)."""

    __slots__ = ("by_key", "calls", "keys")

    def __init__(self) -> None:
        self.keys: list[tuple[int, int]] = []
        self.by_key: dict[tuple[int, int], Block] = {}
        self.calls = 0

    def add(self, block: Block) -> None:
        key = (block.size, block.address)
        insort(self.keys, key)
        self.by_key[key] = block
        block.age = self.calls

    def remove(self, block: Block) -> None:
        key = (block.size, block.address)
        del self.keys[bisect_left(self.keys, key)]
        del self.by_key[key]

    def __iter__(self) -> Iterator[Block]:
        return iter([self.by_key[key] for key in self.keys])


class Allocator:
    """The allocator of one device. All sizes are bytes.

    Args:
        capacity: what the card can give to it.
        config: as PYTORCH_CUDA_ALLOC_CONF.
        addresses: where segments are put.
        on_segment: told of every segment taken and given back.
    """

    def __init__(
        self,
        capacity: int,
        config: AllocatorConfig | None = None,
        *,
        addresses: SegmentAddresses | None = None,
        on_segment: OnSegment | None = None,
    ) -> None:
        self.capacity = capacity
        self.limit: int | None = None
        """What `set_per_process_memory_fraction` allows; None if it was not called."""
        self.config = config or AllocatorConfig()
        self.on_segment = on_segment
        self.requested = self.allocated = self.reserved = 0
        self.peak_requested = self.peak_allocated = self.peak_reserved = 0
        self.num_ooms = self.num_alloc_retries = 0
        self.segments: dict[int, Segment] = {}
        self._addresses = addresses or DownwardSlots()
        self._pools: dict[tuple[bool, int], _Pool] = {}
        self._max_split = self.config.max_split_size or 2**62

    # What torch offers.

    def malloc(self, size: int, stream: int = 0) -> Block:
        """A block for `size` bytes. (torch never asks for 0: an empty tensor has no block.)

        Raises:
            OutOfMemory: the card cannot give it, also after all cached segments were given back.
        """
        rounded = round_size(size, self.config)
        small = rounded <= SMALL_SIZE
        pool = self._pool(small, stream)
        block = self._cached(pool, rounded) or self._fresh(pool, rounded, small, stream)
        if block is None:
            raise self._out_of_memory(size)
        self._split(pool, block, rounded)
        block.in_use, block.requested = True, size
        self._count(size, block.size)
        return block

    def free(self, block: Block) -> None:
        """Give a block back; it is merged with free neighbours and kept."""
        self.requested -= block.requested
        self.allocated -= block.size
        block.in_use, block.requested = False, 0
        pool = self._pool(block.segment.small, block.segment.stream)
        self._merge(pool, block)
        pool.add(block)

    def empty_cache(self) -> None:
        """Give every segment without a block in use back to the card."""
        for pool in list(self._pools.values()):
            for block in pool:
                if block.segment.expandable:
                    self._unmap(pool, block)
                elif block.previous is None and block.next is None:
                    self._release(pool, block)

    def set_limit(self, limit: int | None) -> None:
        """Never reserve more than this many bytes."""
        self.limit = limit

    def reset_peaks(self) -> None:
        """The peaks start again from what is in use now."""
        self.peak_requested, self.peak_allocated, self.peak_reserved = self.requested, self.allocated, self.reserved

    # Finding a block.

    def _cached(self, pool: _Pool, size: int) -> Block | None:
        """The smallest free block that is large enough, lowest address first."""
        pool.calls += 1
        at = bisect_left(pool.keys, (size, 0))
        if at == len(pool.keys):
            return None
        block = pool.by_key[pool.keys[at]]
        if block.segment.expandable:
            block = self._least_expandable(pool, at)
        if size < self._max_split <= block.size:
            return None
        if size >= self._max_split and block.size >= size + self.config.max_non_split_rounding:
            return None
        pool.remove(block)
        return block

    def _least_expandable(self, pool: _Pool, at: int) -> Block:
        """Among expandable blocks, each counts as large as it could grow."""
        block = pool.by_key[pool.keys[at]]
        for key in pool.keys[at + 1 :]:
            following = pool.by_key[key]
            if not block.segment.expandable or _expandable_size(following) >= _expandable_size(block):
                break
            block = following
        return block

    def _fresh(self, pool: _Pool, size: int, small: bool, stream: int) -> Block | None:
        """A block from a new segment; where there is no room, cached memory is given back first."""
        wanted = allocation_size(size)
        if self.limit is not None and self.config.garbage_collection_threshold > 0:
            self._collect_garbage(stream)
        block = self._take(pool, size, wanted, small, stream)
        if block is None and self._release_oversized(pool, size):
            block = self._take(pool, size, wanted, small, stream)
        if block is None:
            self.empty_cache()
            self.num_alloc_retries += 1
            block = self._take(pool, size, wanted, small, stream)
        return block

    def _take(self, pool: _Pool, size: int, wanted: int, small: bool, stream: int) -> Block | None:
        if self.limit is not None and self.reserved + wanted > self.limit:
            return None
        if self.config.expandable_segments:
            return self._expand(pool, size, small, stream)
        if self.reserved + wanted > self.capacity:
            return None
        segment = Segment(self._addresses.place(wanted), wanted, small, stream)
        self.segments[segment.address] = segment
        self._reserve(segment.address, wanted)
        return segment.first

    def _split(self, pool: _Pool, block: Block, size: int) -> None:
        """Keep what is left of a block, if that is worth it."""
        remaining = block.size - size
        if block.segment.small or block.segment.expandable:
            worth = remaining >= MIN_BLOCK
        else:
            worth = size < self._max_split and remaining > SMALL_SIZE
        if worth:
            pool.add(_cut(block, size))

    def _merge(self, pool: _Pool, block: Block) -> None:
        """Join a free block with its free neighbours, which leave the pool."""
        for neighbour in (block.previous, block.next):
            if neighbour is not None and not neighbour.in_use and neighbour.mapped == block.mapped:
                if neighbour.mapped:
                    pool.remove(neighbour)
                _join(block, neighbour)

    # Giving memory back.

    def _release(self, pool: _Pool, block: Block) -> None:
        pool.remove(block)
        del self.segments[block.address]
        self._unreserve(block.address, block.size)

    def _release_oversized(self, pool: _Pool, size: int) -> bool:
        """With `max_split_size`: give back one large cached block that would serve, or several of the largest."""
        if self.config.max_split_size is None:
            return False
        wanted = max(size, self._max_split)
        at = bisect_left(pool.keys, (wanted, 0))
        if at < len(pool.keys):
            self._release_whole(pool, pool.by_key[pool.keys[at]])
            return True
        released = 0
        for key in reversed(list(pool.keys)):
            if released >= wanted or key[0] < self._max_split:
                break
            released += key[0]
            self._release_whole(pool, pool.by_key[key])
        return released >= wanted

    def _release_whole(self, pool: _Pool, block: Block) -> None:
        if block.segment.expandable:
            self._unmap(pool, block)
        else:
            self._release(pool, block)

    def _collect_garbage(self, stream: int) -> None:
        """Free whole cached segments of the large pool, those older than the average first, until below the
        threshold."""
        goal = self.reserved - int(self.config.garbage_collection_threshold * (self.limit or 0))
        pool = self._pool(False, stream)
        while goal > 0:
            whole = [block for block in pool if block.previous is None and block.next is None]
            if not whole:
                return
            average = sum(pool.calls - block.age for block in whole) / len(whole)
            for block in whole:
                if goal > 0 and pool.calls - block.age >= average:
                    goal -= block.size
                    self._release_whole(pool, block)

    # Expandable segments.

    def _expand(self, pool: _Pool, size: int, small: bool, stream: int) -> Block | None:
        """Map as much more of an expandable segment as the request needs."""
        block = self._room(size, small, stream)
        if not block.mapped and not self._map(pool, block, min(block.size, size)):
            return None
        while block.size < size:
            following = block.next
            if following is None or not self._map(pool, following, min(size - block.size, following.size)):
                return None
            block = following
        pool.remove(block)
        return block

    def _room(self, size: int, small: bool, stream: int) -> Block:
        """The start of a free stretch of addresses, in an existing segment or a new one."""
        for segment in self.segments.values():
            if segment.expandable and segment.small == small and segment.stream == stream:
                for block in segment.blocks():
                    if not block.mapped:
                        start = block.previous if block.previous is not None and not block.previous.in_use else block
                        if _stretch(start, size) >= size:
                            return start
        page = SMALL_BUFFER if small else LARGE_BUFFER
        length = -(-min(self.capacity, 2**42) * 9 // 8 // page) * page
        segment = Segment(self._addresses.place(length), length, small, stream, page)
        segment.first.mapped = False
        self.segments[segment.address] = segment
        return segment.first

    def _map(self, pool: _Pool, block: Block, size: int) -> bool:
        """Map the pages that `size` bytes from the block's start need, and merge with mapped free neighbours."""
        page = block.segment.page
        mapped = -(-size // page) * page
        if self.reserved + mapped > self.capacity:
            return False
        if mapped < block.size:
            _cut(block, mapped).mapped = False
        block.mapped = True
        self._reserve(block.address, mapped)
        self._merge(pool, block)
        pool.add(block)
        return True

    def _unmap(self, pool: _Pool, block: Block) -> None:
        """Unmap the whole pages of a free block."""
        page, base = block.segment.page, block.segment.address
        start = base + -(-(block.address - base) // page) * page
        stop = base + (block.address + block.size - base) // page * page
        if start >= stop:
            return
        pool.remove(block)
        if start > block.address:
            rest = _cut(block, start - block.address)
            pool.add(block)
            block = rest
        if block.size > stop - start:
            pool.add(_cut(block, stop - start))
        block.mapped = False
        self._unreserve(start, stop - start)
        self._merge(pool, block)

    # Counting.

    def _pool(self, small: bool, stream: int) -> _Pool:
        pool = self._pools.get((small, stream))
        if pool is None:
            pool = self._pools[small, stream] = _Pool()
        return pool

    def _count(self, requested: int, allocated: int) -> None:
        self.requested += requested
        self.allocated += allocated
        self.peak_requested = max(self.peak_requested, self.requested)
        self.peak_allocated = max(self.peak_allocated, self.allocated)

    def _reserve(self, address: int, size: int) -> None:
        self.reserved += size
        self.peak_reserved = max(self.peak_reserved, self.reserved)
        if self.on_segment is not None:
            self.on_segment(True, address, size)

    def _unreserve(self, address: int, size: int) -> None:
        self.reserved -= size
        if self.on_segment is not None:
            self.on_segment(False, address, size)

    def _out_of_memory(self, size: int) -> OutOfMemory:
        self.num_ooms += 1
        return OutOfMemory(
            size, capacity=self.capacity, reserved=self.reserved, allocated=self.allocated, limit=self.limit
        )


def round_size(size: int, config: AllocatorConfig) -> int:
    """The bytes of the block that a request gets, before splitting decides."""
    if size < MIN_BLOCK:
        return MIN_BLOCK
    divisions = config.divisions_of(size)
    if divisions > 1 and size > MIN_BLOCK * divisions:
        return _next_division(size, divisions)
    return -(-size // MIN_BLOCK) * MIN_BLOCK


def _next_division(size: int, divisions: int) -> int:
    """The next of `divisions` equal steps between the powers of two around `size`."""
    if size & (size - 1) == 0:
        return size
    floor = 1 << (size.bit_length() - 1)
    step = floor // divisions
    return -(-size // step) * step if step else floor * 2


def allocation_size(size: int) -> int:
    """The bytes of the segment that a rounded request needs when no cached block serves it."""
    if size <= SMALL_SIZE:
        return SMALL_BUFFER
    if size < MIN_LARGE_ALLOC:
        return LARGE_BUFFER
    return -(-size // ROUND_LARGE) * ROUND_LARGE


def _cut(block: Block, size: int) -> Block:
    """Shorten a block to `size`; the rest is a block of its own, after it."""
    rest = Block(block.address + size, block.size - size, block.segment)
    rest.previous, rest.next = block, block.next
    if block.next is not None:
        block.next.previous = rest
    block.next, block.size = rest, size
    return rest


def _join(block: Block, neighbour: Block) -> None:
    """Make `neighbour`, which is next to it, part of `block`."""
    if neighbour is block.previous:
        block.address, block.previous = neighbour.address, neighbour.previous
        if block.previous is not None:
            block.previous.next = block
        else:
            block.segment.first = block
    else:
        block.next = neighbour.next
        if block.next is not None:
            block.next.previous = block
    block.size += neighbour.size


def _expandable_size(block: Block) -> int:
    following = block.next
    return block.size + (following.size if following is not None and not following.mapped else 0)


def _stretch(block: Block | None, enough: int) -> int:
    """Free bytes from a block on, mapped or not, counted until there are enough."""
    total = 0
    while block is not None and not block.in_use and total < enough:
        total += block.size
        block = block.next
    return total
