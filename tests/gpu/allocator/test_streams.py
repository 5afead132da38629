"""Pools are kept by stream; a block that other streams used stays active after it was freed. Written from
`DeviceCachingAllocator::free`, `process_events` and `release_cached_blocks` of c10/cuda/CUDACachingAllocator.cpp."""

from __future__ import annotations

from memgraph.gpu.allocator.blocks import Block
from memgraph.gpu.allocator.caching import Allocator
from memgraph.gpu.allocator.config import AllocatorConfig

MIB = 2**20
SIDE = 3


def test_a_free_block_serves_its_own_stream_only() -> None:
    allocator = Allocator(2**40)
    first = allocator.malloc(16 * MIB)
    allocator.free(first)
    second = allocator.malloc(16 * MIB, SIDE)
    assert second.address != first.address and allocator.reserved == 32 * MIB
    assert allocator.malloc(16 * MIB).address == first.address and allocator.reserved == 32 * MIB
    allocator.free(second)
    assert allocator.malloc(16 * MIB, SIDE).address == second.address and allocator.reserved == 32 * MIB


def test_the_small_pools_are_apart_too() -> None:
    allocator = Allocator(2**40)
    segments = {allocator.malloc(1000, stream).segment.address for stream in (0, SIDE, 0, SIDE)}
    assert len(segments) == 2 and allocator.reserved == 2 * 2 * MIB


def test_expandable_segments_are_apart_too() -> None:
    allocator = Allocator(2**40, AllocatorConfig.parse("expandable_segments:True"))
    blocks = [allocator.malloc(30 * MIB, stream) for stream in (0, SIDE, 0, SIDE)]
    assert [block.segment.stream for block in blocks] == [0, SIDE, 0, SIDE]
    assert len(allocator.segments) == 2 and allocator.reserved == 120 * MIB


def test_a_block_that_waits_is_active_and_serves_nobody() -> None:
    allocator = Allocator(2**40)
    block = allocator.malloc(16 * MIB - 100)
    allocator.free(block, wait=True)
    assert (allocator.requested, allocator.allocated, allocator.active) == (16 * MIB - 100, 0, 16 * MIB)
    other = allocator.malloc(10 * MIB)
    assert other.address != block.address
    # 16 waits, 10 is in use
    assert (allocator.allocated, allocator.active, allocator.reserved) == (10 * MIB, 26 * MIB, 26 * MIB)
    assert (allocator.peak_allocated, allocator.peak_active) == (16 * MIB, 26 * MIB)
    assert allocator.peak_requested == 26 * MIB - 100
    allocator.complete(block)
    assert (allocator.requested, allocator.allocated, allocator.active) == (10 * MIB, 10 * MIB, 10 * MIB)
    assert allocator.malloc(12 * MIB).address == block.address and allocator.reserved == 26 * MIB


def test_a_block_that_waits_is_no_neighbour_to_merge_with() -> None:
    allocator = Allocator(2**40)
    left, right = allocator.malloc(4 * MIB), allocator.malloc(4 * MIB)  # of one segment of 20 MiB
    allocator.free(left, wait=True)
    allocator.free(right)
    assert allocator.malloc(16 * MIB).address == right.address  # what the segment has besides
    allocator.complete(left)
    assert allocator.reserved == 20 * MIB


def test_the_highest_active_starts_again_with_the_others() -> None:
    allocator = Allocator(2**40)
    allocator.free(allocator.malloc(16 * MIB), wait=True)
    allocator.free(allocator.malloc(16 * MIB))
    assert allocator.peak_active == 32 * MIB
    allocator.reset_peaks()
    assert (allocator.peak_allocated, allocator.peak_active) == (0, 16 * MIB)


def test_before_memory_goes_back_to_the_card_all_is_waited_for() -> None:
    returned: list[Block] = []
    allocator = Allocator(40 * MIB)
    allocator.on_return = returned.append
    block = allocator.malloc(24 * MIB, SIDE)
    allocator.free(block, wait=True)
    allocator.malloc(30 * MIB)  # 24 + 30 > 40: the cached segment goes, for which the side stream is waited for
    assert returned == [block] and allocator.num_alloc_retries == 1
    assert (allocator.allocated, allocator.active, allocator.reserved) == (30 * MIB, 30 * MIB, 30 * MIB)
