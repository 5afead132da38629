"""The caching allocator with its default settings, a rule at a time, with the arithmetic."""

from __future__ import annotations

import pytest

from memgraph.gpu.allocator.caching import Allocator
from memgraph.gpu.allocator.out_of_memory import OutOfMemory
from memgraph.gpu.allocator.segments import RecordedAddresses
from tests.gpu.allocator.allocator_runs import CARD, MIB, fresh, sizes

# Sizes.


@pytest.mark.parametrize(
    ("asked", "block"), [(1, 512), (511, 512), (512, 512), (513, 1024), (1000, 1024), (MIB - 1, MIB), (MIB, MIB)]
)
def test_a_request_is_rounded_up_to_512_bytes(asked: int, block: int) -> None:
    allocator = fresh()
    assert allocator.malloc(asked).size == block
    assert (allocator.requested, allocator.allocated) == (asked, block)


@pytest.mark.parametrize(
    ("asked", "segment"),
    [
        (1, 2 * MIB),  # up to 1 MiB: small
        (MIB, 2 * MIB),
        (MIB + 1, 20 * MIB),  # above it, and below 10 MiB once rounded
        (10 * MIB - 512, 20 * MIB),
        (10 * MIB - 511, 10 * MIB),  # rounds to 10 MiB, a segment of its own
        (10 * MIB + 1, 12 * MIB),  # its own segments come in steps of 2 MiB
        (12 * MIB, 12 * MIB),
        (113 * MIB, 114 * MIB),
    ],
)
def test_the_segment_that_a_request_takes_from_the_card(asked: int, segment: int) -> None:
    allocator = fresh()
    allocator.malloc(asked)
    assert allocator.reserved == segment
    assert [each.size for each in allocator.segments.values()] == [segment]


# Splitting.


def test_a_small_block_is_split_down_to_512_bytes() -> None:
    # 2 MiB = 1 MiB + (1 MiB − 512) + 512: what is left is still a block, and serves one byte.
    allocator = fresh()
    first = allocator.malloc(MIB)
    allocator.malloc(MIB - 512)
    assert sizes(first) == [MIB, MIB - 512, -512]
    allocator.malloc(1)
    assert sizes(first) == [MIB, MIB - 512, 512]
    assert allocator.reserved == allocator.allocated == 2 * MIB


def test_a_large_block_keeps_a_rest_of_1_mib() -> None:
    # 20 − 9 = 11 MiB are left; 10 of them are asked for. 1 MiB is not more than 1 MiB, so the block is 11 MiB.
    allocator = fresh()
    first, second = allocator.malloc(9 * MIB), allocator.malloc(10 * MIB)
    assert sizes(first) == [9 * MIB, 11 * MIB]
    assert second.requested == 10 * MIB
    assert (allocator.requested, allocator.allocated, allocator.reserved) == (19 * MIB, 20 * MIB, 20 * MIB)


def test_a_large_block_gives_up_a_rest_above_1_mib() -> None:
    allocator = fresh()
    first = allocator.malloc(9 * MIB)
    allocator.malloc(10 * MIB - 512)
    assert sizes(first) == [9 * MIB, 10 * MIB - 512, -(MIB + 512)]


def test_allocated_counts_the_rest_that_was_not_split_off() -> None:
    # 11 MiB take a segment of 12; 1 MiB is left and stays with the block.
    allocator = fresh()
    block = allocator.malloc(11 * MIB)
    assert (allocator.requested, allocator.allocated) == (11 * MIB, 12 * MIB)
    allocator.free(block)
    assert (allocator.requested, allocator.allocated, allocator.reserved) == (0, 0, 12 * MIB)


# Choosing.


def test_the_smallest_block_that_is_large_enough_serves() -> None:
    allocator = fresh()
    blocks = [allocator.malloc(size * MIB) for size in (40, 24, 30, 22)]
    for block in blocks:
        allocator.free(block)
    assert allocator.malloc(23 * MIB).segment is blocks[1].segment
    assert allocator.reserved == (40 + 24 + 30 + 22) * MIB


@pytest.mark.parametrize(("torch", "order"), [((2, 11), (1, 2, 0)), ((2, 12), (0, 1, 2)), ((2, 15), (0, 1, 2))])
def test_of_equal_segments_the_lowest_address_serves_and_from_2_12_the_first(
    torch: tuple[int, int], order: tuple[int, ...]
) -> None:
    places = [0x3000_0000, 0x1000_0000, 0x2000_0000]
    allocator = Allocator(CARD, addresses=RecordedAddresses(places), torch=torch)
    for block in [allocator.malloc(24 * MIB) for _ in places]:
        allocator.free(block)
    assert [allocator.malloc(24 * MIB).address for _ in places] == [places[number] for number in order]


@pytest.mark.parametrize(("torch", "place"), [((2, 11), 0), ((2, 12), 1536), ((2, 13), 0)])
def test_of_equal_blocks_in_a_segment_the_lowest_address_serves_and_in_2_12_the_first_made(
    torch: tuple[int, int], place: int
) -> None:
    # 1024 and 1024 bytes at 0 and 1536, kept apart. The first is cut in two and merged again: made anew, after the
    # second. Both are free: which one serves?
    allocator = Allocator(CARD, torch=torch)
    first, _, second, _ = (allocator.malloc(size) for size in (1024, 512, 1024, 512))
    start = first.address
    allocator.free(first)
    front, rest = allocator.malloc(512), allocator.malloc(512)
    for block in (rest, front, second):
        allocator.free(block)
    assert allocator.malloc(1024).address == start + place


def test_small_requests_do_not_use_large_blocks_nor_large_ones_small_blocks() -> None:
    allocator = fresh()
    allocator.free(allocator.malloc(20 * MIB))
    small = allocator.malloc(MIB)
    assert small.segment.size == 2 * MIB
    allocator.free(small)
    assert allocator.malloc(MIB + 512).segment.size == 20 * MIB  # the 2 MiB that are free are of the other kind


def test_a_stream_does_not_use_the_blocks_of_another() -> None:
    allocator = fresh()
    block = allocator.malloc(24 * MIB, stream=1)
    allocator.free(block)
    assert allocator.malloc(24 * MIB, stream=2).segment is not block.segment
    assert allocator.malloc(24 * MIB, stream=1).segment is block.segment
    assert allocator.reserved == 48 * MIB


# Freeing.


@pytest.mark.parametrize("order", [(0, 1, 2), (0, 2, 1), (1, 0, 2), (1, 2, 0), (2, 0, 1), (2, 1, 0)])
def test_free_neighbours_are_merged_in_whatever_order_they_are_freed(order: tuple[int, ...]) -> None:
    allocator = fresh()
    blocks = [allocator.malloc(512 * (number + 1)) for number in range(3)]
    segment = blocks[0].segment
    assert sizes(blocks[0]) == [512, 1024, 1536, -(2 * MIB - 3072)]
    for number in order:
        allocator.free(blocks[number])
    assert [(block.address, block.size) for block in segment.blocks()] == [(segment.address, 2 * MIB)]


def test_a_block_between_two_in_use_is_not_merged() -> None:
    allocator = fresh()
    first, second, _ = (allocator.malloc(512) for _ in range(3))
    allocator.free(second)
    assert sizes(first) == [512, -512, 512, -(2 * MIB - 1536)]


def test_empty_cache_gives_back_whole_segments_only() -> None:
    allocator = fresh()
    kept, other = allocator.malloc(3 * MIB), allocator.malloc(4 * MIB)  # one segment of 20 MiB
    alone = allocator.malloc(24 * MIB)
    allocator.free(other)
    allocator.free(alone)
    allocator.empty_cache()
    assert allocator.reserved == 20 * MIB
    allocator.free(kept)
    allocator.empty_cache()
    assert (allocator.reserved, allocator.segments) == (0, {})


def test_segments_are_told_of_as_they_come_and_go() -> None:
    told: list[tuple[bool, int, int]] = []
    addresses = RecordedAddresses([0x1000_0000])
    allocator = Allocator(CARD, addresses=addresses, on_segment=lambda *event: told.append(event))
    allocator.free(allocator.malloc(5 * MIB))
    allocator.empty_cache()
    assert told == [(True, 0x1000_0000, 20 * MIB), (False, 0x1000_0000, 20 * MIB)]


def test_peaks_are_the_highest_figures_since_they_were_reset() -> None:
    allocator = fresh()
    small, large = allocator.malloc(100), allocator.malloc(11 * MIB)
    allocator.free(large)
    assert allocator.peak_requested == 11 * MIB + 100
    assert allocator.peak_allocated == 12 * MIB + 512
    assert allocator.peak_reserved == 14 * MIB
    allocator.empty_cache()
    allocator.reset_peaks()
    assert (allocator.peak_requested, allocator.peak_allocated, allocator.peak_reserved) == (100, 512, 2 * MIB)
    allocator.free(small)
    assert allocator.peak_requested == 100


# A full card.


def test_cached_segments_are_given_back_before_a_request_is_refused() -> None:
    allocator = fresh(capacity=50 * MIB)
    allocator.free(allocator.malloc(30 * MIB))
    allocator.malloc(40 * MIB)  # 30 + 40 are more than 50, until the 30 are gone
    assert (allocator.reserved, allocator.num_alloc_retries, allocator.num_ooms) == (40 * MIB, 1, 0)


def test_a_request_that_cannot_be_served_is_refused_and_changes_nothing_else() -> None:
    allocator = fresh(capacity=50 * MIB)
    allocator.malloc(30 * MIB)
    with pytest.raises(OutOfMemory) as refusal:
        allocator.malloc(21 * MIB)  # 22 MiB, where 20 are left
    assert (refusal.value.size, refusal.value.segment) == (21 * MIB, 22 * MIB)
    assert (refusal.value.reserved, refusal.value.capacity) == (30 * MIB, 50 * MIB)
    assert (allocator.requested, allocator.reserved, allocator.num_ooms) == (30 * MIB, 30 * MIB, 1)
    assert allocator.malloc(20 * MIB).size == 20 * MIB


def test_free_memory_between_blocks_in_use_is_no_help() -> None:
    # 9 + 2 + 9 MiB in one segment; the two of 9 are freed: 18 MiB that no request of 10 MiB can use.
    allocator = fresh(capacity=20 * MIB)
    left, _, right = (allocator.malloc(size * MIB) for size in (9, 2, 9))
    allocator.free(left)
    allocator.free(right)
    with pytest.raises(OutOfMemory):
        allocator.malloc(10 * MIB)
    assert allocator.reserved - allocator.allocated == 18 * MIB


def test_a_process_may_be_allowed_less_than_the_card_has() -> None:
    allocator = fresh(capacity=100 * MIB)
    allocator.set_limit(30 * MIB)
    allocator.malloc(20 * MIB)
    with pytest.raises(OutOfMemory) as refusal:
        allocator.malloc(12 * MIB)
    assert refusal.value.limit == 30 * MIB
    allocator.set_limit(None)
    allocator.malloc(12 * MIB)
    assert allocator.reserved == 32 * MIB
