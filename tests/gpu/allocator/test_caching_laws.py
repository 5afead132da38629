"""The laws of the caching allocator that hold whatever is asked of it."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from memgraph.gpu.allocator.blocks import Block
from memgraph.gpu.allocator.caching import Allocator
from memgraph.gpu.allocator.config import AllocatorConfig
from tests.gpu.allocator.allocator_runs import CARD, MIB, check, fresh, serve

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
