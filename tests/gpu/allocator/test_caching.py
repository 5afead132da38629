"""The caching allocator, a rule at a time, with the arithmetic; then the laws that hold whatever is asked of it."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from memgraph.gpu.allocator.blocks import Block
from memgraph.gpu.allocator.caching import Allocator
from memgraph.gpu.allocator.config import AllocatorConfig
from memgraph.gpu.allocator.out_of_memory import OutOfMemory
from memgraph.gpu.allocator.segments import RecordedAddresses
from tests.gpu.allocator.allocator_runs import MIB, check, serve

CARD = 2**40
"""More than any of these tests takes."""


def fresh(config: str = "", capacity: int = CARD) -> Allocator:
    return Allocator(capacity, AllocatorConfig.parse(config))


def sizes(block: Block) -> list[int]:
    """Bytes of the blocks in a block's segment, the free ones negative."""
    return [each.size if each.in_use else -each.size for each in block.segment.blocks()]


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


# max_split_size_mb.


def test_a_block_at_the_split_limit_is_not_cut_for_a_smaller_request() -> None:
    allocator = fresh("max_split_size_mb:32")
    allocator.free(allocator.malloc(32 * MIB))
    allocator.malloc(12 * MIB)
    assert allocator.reserved == (32 + 12) * MIB  # without the setting the 32 would serve


def test_below_the_split_limit_blocks_are_cut_as_ever() -> None:
    allocator = fresh("max_split_size_mb:32")
    allocator.free(allocator.malloc(30 * MIB))
    block = allocator.malloc(12 * MIB)
    assert sizes(block) == [12 * MIB, -18 * MIB]


@pytest.mark.parametrize(("cached", "reserved"), [(58, 58), (60, 60 + 40)])
def test_a_request_above_the_split_limit_takes_a_block_less_than_20_mib_larger(cached: int, reserved: int) -> None:
    # 58 < 40 + 20 serves, and is not cut; 60 is too large.
    allocator = fresh("max_split_size_mb:32")
    allocator.free(allocator.malloc(cached * MIB))
    block = allocator.malloc(40 * MIB)
    assert allocator.reserved == reserved * MIB
    assert block.size == (58 if cached == 58 else 40) * MIB


def test_how_much_larger_is_a_setting() -> None:
    allocator = fresh("max_split_size_mb:32,max_non_split_rounding_mb:30")
    allocator.free(allocator.malloc(68 * MIB))
    assert allocator.malloc(40 * MIB).size == 68 * MIB


def test_a_full_card_gives_back_one_oversized_block_that_would_do() -> None:
    # 60 MiB are cached but 20 above the 40 asked. Both do not fit in 90: the 60 go, and no retry is counted.
    allocator = fresh("max_split_size_mb:32", capacity=90 * MIB)
    allocator.free(allocator.malloc(60 * MIB))
    allocator.malloc(40 * MIB)
    assert (allocator.reserved, allocator.num_alloc_retries) == (40 * MIB, 0)


def test_a_full_card_gives_back_the_largest_blocks_until_they_are_enough() -> None:
    # 34 + 36 + 38 = 108 of 120 MiB are cached, 70 are asked: 38 + 36 ≥ 70 go, 34 stays.
    allocator = fresh("max_split_size_mb:32", capacity=120 * MIB)
    for block in [allocator.malloc(size * MIB) for size in (34, 36, 38)]:
        allocator.free(block)
    allocator.malloc(70 * MIB)
    assert (allocator.reserved, allocator.num_alloc_retries) == ((34 + 70) * MIB, 0)


# roundup_power2_divisions, large_segment_size_mb, per_process_memory_fraction, garbage_collection_threshold.


@pytest.mark.parametrize(
    ("asked", "block"),
    [
        (1200, 1536),  # not above 4 × 512: to 512 bytes as ever
        (2049, 2560),  # between 2048 and 4096 in steps of 512
        (5000, 5120),  # between 4096 and 8192 in steps of 1024
        (8192, 8192),  # a power of two stays
        (1200 * 2**10, 1280 * 2**10),  # between 1 MiB and 2 MiB in steps of 256 KiB
    ],
)
def test_sizes_may_be_rounded_up_to_parts_of_a_power_of_two(asked: int, block: int) -> None:
    allocator = fresh("roundup_power2_divisions:4,max_split_size_mb:20")
    assert allocator.malloc(asked).size == block


def test_the_segment_for_middling_requests_is_a_setting() -> None:
    allocator = fresh("large_segment_size_mb:30")
    allocator.malloc(2 * MIB)
    assert allocator.reserved == 30 * MIB
    allocator.malloc(MIB)
    assert allocator.reserved == 32 * MIB
    expandable = fresh("large_segment_size_mb:30,expandable_segments:True")
    expandable.malloc(40 * MIB)
    assert expandable.reserved == 60 * MIB


def test_a_share_of_the_card_is_all_that_may_be_reserved() -> None:
    allocator = Allocator(70 * MIB, AllocatorConfig(per_process_memory_fraction=0.5), total=80 * MIB)
    assert allocator.limit == 40 * MIB
    allocator.malloc(40 * MIB)
    with pytest.raises(OutOfMemory):
        allocator.malloc(1)


def test_old_cached_segments_are_collected_above_the_threshold() -> None:
    # Half of 200 MiB is allowed to be reserved without a thought. 30 + 32 + 34 + 36 = 132 MiB are cached, so 32 are too
    # many when 40 are asked for. The first two were freed before the third request, the others after the fourth: ages
    # at the fifth are 3, 3, 1, 1, on average 2. Those of 2 and more go, all of them.
    allocator = fresh("garbage_collection_threshold:0.5", capacity=200 * MIB)
    allocator.set_limit(200 * MIB)
    for block in [allocator.malloc(size * MIB) for size in (30, 32)]:
        allocator.free(block)
    for block in [allocator.malloc(size * MIB) for size in (34, 36)]:
        allocator.free(block)
    allocator.malloc(40 * MIB)
    assert sorted(segment.size // MIB for segment in allocator.segments.values()) == [34, 36, 40]
    assert allocator.num_alloc_retries == 0


def test_without_a_limit_nothing_is_collected() -> None:
    allocator = fresh("garbage_collection_threshold:0.1", capacity=200 * MIB)
    for block in [allocator.malloc(size * MIB) for size in (30, 32)]:
        allocator.free(block)
    allocator.malloc(40 * MIB)
    assert allocator.reserved == 102 * MIB


# expandable_segments.


def test_an_expandable_segment_grows_by_pages_of_20_mib() -> None:
    # 30 MiB need 2 pages; 30 more use the 10 that are left and need 20: one page.
    allocator = fresh("expandable_segments:True")
    first = allocator.malloc(30 * MIB)
    assert allocator.reserved == 40 * MIB
    second = allocator.malloc(30 * MIB)
    assert allocator.reserved == 60 * MIB
    assert second.address == first.address + 30 * MIB
    assert second.segment is first.segment


def test_small_requests_have_an_expandable_segment_of_2_mib_pages() -> None:
    allocator = fresh("expandable_segments:True")
    small = [allocator.malloc(MIB) for _ in range(3)]
    assert allocator.reserved == 4 * MIB
    assert [block.address - small[0].address for block in small] == [0, MIB, 2 * MIB]
    assert allocator.malloc(2 * MIB).segment is not small[0].segment


def test_in_expandable_segments_every_rest_of_512_bytes_is_split_off() -> None:
    allocator = fresh("expandable_segments:True")
    block = allocator.malloc(20 * MIB - 512)
    assert allocator.allocated == 20 * MIB - 512
    assert sizes(block)[:2] == [20 * MIB - 512, -512]


def test_emptying_the_cache_unmaps_whole_free_pages() -> None:
    # Free: 0 to 30 MiB. Whole pages within: 0 to 20. The 10 beside the block in use stay mapped.
    allocator = fresh("expandable_segments:True")
    first, second = allocator.malloc(30 * MIB), allocator.malloc(30 * MIB)
    allocator.free(first)
    allocator.empty_cache()
    assert allocator.reserved == 40 * MIB
    # 25 MiB do not fit in those 10, but from the start of the segment there is room for 30.
    again = allocator.malloc(25 * MIB)
    assert again.address == second.segment.address
    assert allocator.reserved == 60 * MIB


def test_an_expandable_segment_stops_at_the_card() -> None:
    allocator = fresh("expandable_segments:True", capacity=50 * MIB)
    held = allocator.malloc(30 * MIB)
    with pytest.raises(OutOfMemory):
        allocator.malloc(15 * MIB)  # 10 are left of the second page, a third would make 60
    assert allocator.reserved == 40 * MIB
    allocator.free(held)
    allocator.malloc(40 * MIB)
    assert allocator.reserved == 40 * MIB


# Whatever is asked.

SMALL = st.integers(1, 4 * MIB)
REQUESTS = st.one_of(SMALL, st.integers(1, 2**13), st.integers(MIB, 60 * MIB))
CHOICES = st.lists(st.one_of(REQUESTS, st.integers(-40, 0)), max_size=60)
CONFIGS = st.sampled_from(
    [
        "",
        "max_split_size_mb:21",
        "roundup_power2_divisions:8",
        "expandable_segments:True",
        "garbage_collection_threshold:0.5",
        "garbage_collection_threshold:0.5,expandable_segments:True",
        "max_split_size_mb:24,garbage_collection_threshold:0.3",
    ]
)
VERSIONS = st.sampled_from([(2, 11), (2, 12), (2, 15)])


@settings(deadline=None, max_examples=200)
@given(choices=CHOICES, config=CONFIGS, capacity=st.sampled_from([30 * MIB, 150 * MIB, CARD]), torch=VERSIONS)
def test_the_books_are_right_after_every_call(
    choices: list[int], config: str, capacity: int, torch: tuple[int, int]
) -> None:
    allocator = Allocator(capacity, AllocatorConfig.parse(config), torch=torch)
    if "garbage" in config:
        allocator.set_limit(capacity)
    live: list[Block] = []
    before = (0,) * 5
    for choice in choices:
        serve(allocator, choice, live)
        check(allocator, live)
        after = (
            *(allocator.peak_requested, allocator.peak_allocated, allocator.peak_reserved),
            *(allocator.num_ooms, allocator.num_alloc_retries),
        )
        assert all(map(int.__le__, before, after)), "a counter went back"
        assert all(map(int.__ge__, after, (allocator.requested, allocator.allocated, allocator.reserved)))
        before = after


@settings(deadline=None, max_examples=100)
@given(choices=CHOICES, config=CONFIGS, order=st.randoms(use_true_random=False))
def test_nothing_is_left_when_all_is_freed(choices: list[int], config: str, order: object) -> None:
    allocator = fresh(config)
    live: list[Block] = []
    for choice in choices:
        serve(allocator, choice, live)
    order.shuffle(live)  # type: ignore[attr-defined]
    for block in live:
        allocator.free(block)
    assert (allocator.requested, allocator.allocated) == (0, 0)
    allocator.empty_cache()
    assert allocator.reserved == 0


@settings(deadline=None, max_examples=50)
@given(choices=CHOICES, config=CONFIGS)
def test_the_same_requests_give_the_same_addresses(choices: list[int], config: str) -> None:
    def addresses() -> list[tuple[int, int]]:
        allocator, live = fresh(config), list[Block]()
        for choice in choices:
            serve(allocator, choice, live)
        return [(block.address, block.size) for block in live]

    assert addresses() == addresses()
