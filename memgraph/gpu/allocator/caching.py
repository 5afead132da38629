"""PyTorch's CUDA caching allocator, as a model: the same blocks, the same addresses, the same out-of-memory.

Written from c10/cuda/CUDACachingAllocator.cpp of torch 2.11 to 2.15 (`DeviceCachingAllocator`). Requests are rounded to
512 bytes and served from cached blocks by best fit; segments of 2 MiB serve small requests (up to 1 MiB), 20 MiB those
below 10 MiB, larger ones get their own, rounded to 2 MiB. Blocks are split, and merged with their neighbours when
freed. When the card is full, cached segments are given back and the request is tried again.

Which of equal blocks serves depends on the version (`Ties`): up to torch 2.11 it is the lowest address, which the
driver decides; since then it is the order in which they came. `tests/data/allocator_*.json.gz` holds what the five
versions' own allocators did.
"""

from __future__ import annotations

import itertools
from bisect import bisect_left
from collections.abc import Callable

from memgraph.gpu.allocator.blocks import Block, Clock, Pool, Segment, cut, is_whole, join, least_expandable, stretch
from memgraph.gpu.allocator.config import AllocatorConfig
from memgraph.gpu.allocator.out_of_memory import OutOfMemory
from memgraph.gpu.allocator.private_pools import PrivatePools
from memgraph.gpu.allocator.rounding import MIN_BLOCK, SMALL_BUFFER, SMALL_SIZE, allocation_size, round_size
from memgraph.gpu.allocator.segments import DownwardSlots, SegmentAddresses
from memgraph.gpu.allocator.ties import NEWEST, Ties

OnSegment = Callable[[bool, int, int], None]
"""Told of segments: True when one is taken from the card, its address and its bytes."""

OnReturn = Callable[[Block], None]
"""Told of a block that other streams used, when the allocator itself waited for them."""


class Allocator:
    """The allocator of one device. All sizes are bytes.

    Args:
        capacity: what the card can give to it.
        config: as PYTORCH_CUDA_ALLOC_CONF.
        addresses: where segments are put.
        on_segment: told of every segment taken and given back.
        torch: (major, minor) of the torch whose allocator this is.
        total: the card's memory, of which `per_process_memory_fraction` is a share; default `capacity`.
    """

    def __init__(
        self,
        capacity: int,
        config: AllocatorConfig | None = None,
        *,
        addresses: SegmentAddresses | None = None,
        on_segment: OnSegment | None = None,
        torch: tuple[int, int] = NEWEST,
        total: int | None = None,
    ) -> None:
        self.capacity = capacity
        self._total = total or capacity
        self.settings: Callable[[], AllocatorConfig] | None = None
        """Asked once, where CUDA is initialised."""
        self.on_segment = on_segment
        self.on_return: OnReturn | None = None
        self.awaiting: dict[Block, None] = {}
        """Blocks that were freed while other streams may have been at work on them, in order. They are *active*."""
        self._awaiting_bytes = self._peak_awaited = 0
        self.requested = self.allocated = self.reserved = 0
        self.peak_requested = self.peak_allocated = self.peak_reserved = 0
        self.num_ooms = self.num_alloc_retries = self.num_sync_all_streams = 0
        self.segments: dict[int, Segment] = {}
        self.torch = torch
        self.ties = Ties.of(torch)
        self._orders = itertools.repeat(0) if self.ties is Ties.ADDRESS else itertools.count(1)
        self._addresses = addresses or DownwardSlots()
        self.private = PrivatePools()
        self._pools: dict[tuple[bool, int, int], Pool] = {}
        self._clocks: dict[tuple[bool, int], Clock] = {}
        self._rounded: dict[int, int] = {}
        """What `round_size` says of the sizes that were asked for."""
        self._configure(config or AllocatorConfig())

    def initialise(self) -> None:
        """As CUDA's first use does: from here on the settings are what they are."""
        if self.settings is not None:
            settings, self.settings = self.settings, None
            self._configure(settings())

    def _configure(self, config: AllocatorConfig) -> None:
        self.config = config
        self.limit = config.limit(self._total)
        """What `set_per_process_memory_fraction` or the setting allows; None if neither was used."""
        self._max_split = config.max_split_size or 2**62

    # What torch offers.

    def malloc(self, size: int, stream: int = 0) -> Block:
        """A block for `size` bytes. (torch never asks for 0: an empty tensor has no block.)

        Raises:
            OutOfMemory: the card cannot give it, also after all cached segments were given back.
        """
        rounded = self._rounded.get(size)
        if rounded is None:
            self.initialise()
            rounded = self._rounded[size] = round_size(size, self.config)
        small = rounded <= SMALL_SIZE
        owner = self.private.of(stream) if self.private.underway else 0
        pool = self._pools.get((small, stream, owner)) or self._pool(small, stream, owner)
        block = self._cached(pool, rounded) or self._fresh(pool, rounded, small, stream, owner)
        if block is None:
            raise self._out_of_memory(size, rounded)
        if block.size != rounded:
            self._split(pool, block, rounded)
        block.in_use, block.requested = True, size
        self.requested += size
        self.allocated += block.size
        if self.requested > self.peak_requested:  # `max` costs a call at each request
            self.peak_requested = self.requested
        if self.allocated > self.peak_allocated:
            self.peak_allocated = self.allocated
        if self._awaiting_bytes:
            self._peak_awaited = max(self._peak_awaited, self.active)
        return block

    @property
    def active(self) -> int:
        """Bytes of blocks in use, and of those that other streams may still use."""
        return self.allocated + self._awaiting_bytes

    @property
    def peak_active(self) -> int:
        """The highest; what was so while no block waited is known from `peak_allocated`."""
        return max(self._peak_awaited, self.peak_allocated)

    @property
    def room(self) -> int:
        """What the card has left, or the largest block that is cached, if that is more (`cacheInfo`)."""
        cached = (block.size for pool in self._pools.values() for block in pool)
        return max(self.capacity - self.reserved, *cached, 0)

    @property
    def idle(self) -> int:
        """How many blocks are free."""
        return sum([len(pool.keys) for pool in self._pools.values()])

    def free(self, block: Block, *, wait: bool = False) -> None:
        """Give a block back; it is merged with free neighbours and kept.

        Args:
            wait: other streams used it (`record_stream`). It is allocated no longer, but stays active, and counts as
                requested, until `complete`.
        """
        self.allocated -= block.size
        if wait:
            self.awaiting[block] = None
            self._awaiting_bytes += block.size
        else:
            self._back(block)

    def complete(self, block: Block) -> None:
        """The other streams are done with a block that waits for them."""
        del self.awaiting[block]
        self._awaiting_bytes -= block.size
        self._back(block)

    def _back(self, block: Block) -> None:
        self.requested -= block.requested
        block.in_use, block.requested = False, 0
        segment = block.segment
        kind = segment.small, segment.stream, segment.pool
        pool = self._pools.get(kind) or self._pool(*kind)
        if block.previous is not block.next:  # one is there, at least
            self._merge(pool, block)
        pool.add(block)

    def empty_cache(self, only: int | None = None) -> None:
        """Give every segment without a block in use back to the card, but those of private pools that are used. Blocks
        that wait for other streams are waited for first (`synchronize_and_free_events`).

        Args:
            only: of this private pool alone, used or not.
        """
        self.num_sync_all_streams += 1
        for block in list(self.awaiting):
            if self.on_return is not None:
                self.on_return(block)  # while it has its own size: it is merged as it comes back
            self.complete(block)
        for (_, _, owner), pool in list(self._pools.items()):
            if self.private.kept(owner) if only is None else owner != only:
                continue
            for block in pool:
                if block.segment.expandable:
                    self._unmap(pool, block)
                elif is_whole(block):
                    self._release(pool, block)

    def set_limit(self, limit: int | None) -> None:
        """Never reserve more than this many bytes."""
        self.limit = limit

    def reset_peaks(self) -> None:
        """The peaks start again from what is in use now."""
        self.peak_requested, self.peak_allocated, self.peak_reserved = self.requested, self.allocated, self.reserved
        self._peak_awaited = self.active

    # Finding a block.

    def _cached(self, pool: Pool, size: int) -> Block | None:
        """The smallest free block that is large enough, lowest address first."""
        pool.clock.now += 1
        keys = pool.keys
        at = bisect_left(keys, (size, 0, 0))
        if at == len(keys):
            return None
        block = pool.by_key[keys[at]]
        if block.segment.expandable:
            block = least_expandable(pool, at)
        if size < self._max_split <= block.size:
            return None
        if size >= self._max_split and block.size >= size + self.config.max_non_split_rounding:
            return None
        if block.segment.expandable:
            pool.remove(block)
        else:
            pool.take(at)
        return block

    def _fresh(self, pool: Pool, size: int, small: bool, stream: int, owner: int) -> Block | None:
        """A block from a new segment; where there is no room, cached memory is given back first."""
        wanted = allocation_size(size, self.config.large_segment_size)
        if self.limit is not None and self.config.garbage_collection_threshold > 0:
            self._collect_garbage()
        block = self._take(pool, size, wanted, small, stream, owner)
        if block is None and self._release_oversized(pool, size):
            block = self._take(pool, size, wanted, small, stream, owner)
        if block is None and not self.private.underway:
            self.empty_cache()
            self.num_alloc_retries += 1
            block = self._take(pool, size, wanted, small, stream, owner)
        return block

    def _take(self, pool: Pool, size: int, wanted: int, small: bool, stream: int, owner: int) -> Block | None:
        if self.limit is not None and self.reserved + wanted > self.limit:
            return None
        if self.config.expandable_segments:
            return self._expand(pool, size, small, stream, owner)
        if self.reserved + wanted > self.capacity:
            return None
        segment = Segment(self._addresses.place(wanted), wanted, small, stream, order=next(self._orders), pool=owner)
        self.segments[segment.address] = segment
        self._reserve(segment.address, wanted)
        return segment.first

    def _split(self, pool: Pool, block: Block, size: int) -> None:
        """Keep what is left of a block, if that is worth it."""
        remaining = block.size - size
        if block.segment.small or block.segment.expandable:
            worth = remaining >= MIN_BLOCK
        else:
            worth = size < self._max_split and remaining > SMALL_SIZE
        if worth:
            rest = cut(block, size)
            self._renew(block)
            pool.add(rest)

    def _merge(self, pool: Pool, block: Block) -> None:
        """Join a free block with its free neighbours, which leave the pool."""
        for neighbour in (block.previous, block.next):
            if neighbour is not None and not neighbour.in_use and neighbour.mapped == block.mapped:
                if neighbour.mapped:
                    pool.remove(neighbour)
                join(block, neighbour)

    # Giving memory back.

    def _release(self, pool: Pool, block: Block) -> None:
        pool.remove(block)
        del self.segments[block.address]
        self._unreserve(block.address, block.size)

    def _release_oversized(self, pool: Pool, size: int) -> bool:
        """With `max_split_size`: give back one large cached block that would serve, or several of the largest.
        Expandable segments are left alone."""
        if self.config.max_split_size is None or self.config.expandable_segments:
            return False
        wanted = max(size, self._max_split)
        at = bisect_left(pool.keys, (wanted, 0, 0))
        if at < len(pool.keys):
            self._release(pool, pool.by_key[pool.keys[at]])
            return True
        released = 0
        for key in reversed(list(pool.keys)):
            if released >= wanted or key[0] < self._max_split:
                break
            released += key[0]
            self._release(pool, pool.by_key[key])
        return released >= wanted

    def _collect_garbage(self) -> None:
        """Give back whole cached segments of the large kind, those that are older than the average, until what is
        reserved is below the threshold. Expandable ones stay."""
        goal = self.reserved - int(self.config.garbage_collection_threshold * (self.limit or 0))
        now = self._clocks.setdefault((False, 0), Clock()).now
        while goal > 0:
            whole = [(pool, block) for pool in self._large_pools() for block in pool if is_whole(block)]
            if not whole:
                return
            average = sum(now - block.age for _, block in whole) / len(whole)
            for pool, block in whole:
                if now - block.age >= average:
                    goal -= block.size
                    self._release(pool, block)

    def _large_pools(self) -> list[Pool]:
        return [pool for (small, _, owner), pool in self._pools.items() if not small and not owner]

    # Expandable segments.

    def _expand(self, pool: Pool, size: int, small: bool, stream: int, owner: int) -> Block | None:
        """Map as much more of an expandable segment as the request needs."""
        block = self._room(size, small, stream, owner)
        if not block.mapped and not self._map(pool, block, min(block.size, size)):
            return None
        while block.size < size:
            following = block.next
            if following is None or not self._map(pool, following, min(size - block.size, following.size)):
                return None
            block = following
        pool.remove(block)
        return block

    def _room(self, size: int, small: bool, stream: int, owner: int) -> Block:
        """The start of the lowest free stretch of addresses, in an existing segment or a new one."""
        for segment in sorted(self.segments.values(), key=lambda each: each.address):
            if segment.expandable and (segment.small, segment.stream, segment.pool) == (small, stream, owner):
                for block in segment.blocks():
                    if not block.mapped:
                        start = block.previous if block.previous is not None and not block.previous.in_use else block
                        if stretch(start, size) >= size:
                            return start
        page = SMALL_BUFFER if small else self.config.large_segment_size
        length = -(-min(self.capacity, 2**42) * 9 // 8 // page) * page
        segment = Segment(self._addresses.place(length), length, small, stream, page, next(self._orders), owner)
        segment.first.mapped = False
        self.segments[segment.address] = segment
        return segment.first

    def _map(self, pool: Pool, block: Block, size: int) -> bool:
        """Map the pages that `size` bytes from the block's start need, and merge with mapped free neighbours."""
        page = block.segment.page
        mapped = -(-size // page) * page
        if self.reserved + mapped > self.capacity:
            return False
        if mapped < block.size:
            self._renew(cut(block, mapped)).mapped = False
        block.mapped = True
        self._reserve(block.address, mapped)
        self._merge(pool, block)
        pool.add(block)
        return True

    def _unmap(self, pool: Pool, block: Block) -> None:
        """Unmap the whole pages of a free block."""
        page, base = block.segment.page, block.segment.address
        start = base + -(-(block.address - base) // page) * page
        stop = base + (block.address + block.size - base) // page * page
        if start >= stop:
            return
        pool.remove(block)
        if start > block.address:
            rest = cut(block, start - block.address)
            pool.add(self._renew(block))
            block = rest
        if block.size > stop - start:
            pool.add(self._renew(cut(block, stop - start)))
        block.mapped = False
        self._unreserve(start, stop - start)
        self._merge(pool, block)
        if block.previous is None and block.next is None:
            del self.segments[block.segment.address]

    def _renew(self, block: Block) -> Block:
        """A block that torch makes anew, where that gives it a place of its own."""
        if self.ties is Ties.BLOCK:
            block.order = next(self._orders)
        return block

    # Counting.

    def _pool(self, small: bool, stream: int, owner: int = 0) -> Pool:
        pool = self._pools.get((small, stream, owner))
        if pool is None:
            clock = self._clocks.setdefault((small, owner), Clock())
            pool = self._pools[small, stream, owner] = Pool(clock)
        return pool

    def _reserve(self, address: int, size: int) -> None:
        self.reserved += size
        self.peak_reserved = max(self.peak_reserved, self.reserved)
        if self.on_segment is not None:
            self.on_segment(True, address, size)

    def _unreserve(self, address: int, size: int) -> None:
        self.reserved -= size
        if self.on_segment is not None:
            self.on_segment(False, address, size)

    def _out_of_memory(self, size: int, rounded: int) -> OutOfMemory:
        self.num_ooms += 1
        return OutOfMemory(
            size, segment=allocation_size(rounded, self.config.large_segment_size), capacity=self.capacity,
            reserved=self.reserved, allocated=self.allocated, limit=self.limit,
            expandable=self.config.expandable_segments, torch=self.torch,
        )  # fmt: skip
