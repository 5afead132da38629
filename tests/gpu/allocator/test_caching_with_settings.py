"""What PYTORCH_CUDA_ALLOC_CONF changes of the caching allocator, a setting at a time, with the arithmetic."""

from __future__ import annotations

import pytest

from memgraph.gpu.allocator.caching import Allocator
from memgraph.gpu.allocator.config import AllocatorConfig
from memgraph.gpu.allocator.out_of_memory import OutOfMemory
from tests.gpu.allocator.allocator_runs import MIB, fresh, sizes

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
