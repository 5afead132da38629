"""The fast replay is the allocator: on recorded runs, on random requests, in every configuration and version."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks.recordings import packed as recordings
from memgraph.analyze import replay_fast
from memgraph.analyze.replay_fast import Replayed, replay
from memgraph.gpu.allocator.blocks import Block
from memgraph.gpu.allocator.caching import Allocator
from memgraph.gpu.allocator.config import AllocatorConfig
from memgraph.gpu.allocator.out_of_memory import OutOfMemory
from memgraph.trace import Action, Trace

MIB = 2**20
VERSIONS = ((2, 11), (2, 12), (2, 13), (2, 15))


def by_model(events: list[int], sizes: list[int], allocator: Allocator) -> Replayed:
    """The same through the model itself."""
    blocks: dict[int, Block] = {}
    fits = True
    try:
        for event in events:
            if event >= 0:
                blocks[event] = allocator.malloc(sizes[event])
            else:
                allocator.free(blocks.pop(~event))
    except OutOfMemory:
        fits = False
    return Replayed(fits, allocator.peak_allocated, allocator.peak_reserved)


def requests(trace: Trace) -> tuple[list[int], list[int]]:
    """A trace's events and sizes, as `replay` takes them."""
    actions, buffers = trace.events.columns[:2]
    kept = [
        buffer if action == Action.ALLOC else ~buffer
        for action, buffer in zip(actions, buffers, strict=True)
        if action in (Action.ALLOC, Action.FREE)
    ]
    return kept, [buffer.size for buffer in trace.buffers]


@pytest.fixture(scope="module")
def recorded() -> tuple[list[int], list[int]]:
    return requests(recordings.read(recordings.FOLDER / "b8_s512.json.gz"))


def test_events_are_buffers_and_their_complements() -> None:
    # Buffer 0 and 1 of 600 KiB share a segment of 2 MiB with 2 of 100 bytes: 614400 + 614400 + 512.
    assert replay([0, 1, ~0, 2, ~1, ~2], [614_400, 614_400, 100], 2**40) == Replayed(True, 1_228_800, 2 * MIB)


def test_a_refusal_ends_the_replay() -> None:
    # 30 MiB, freed and given back, then 40; 20 more do not fit in 50, and what would follow is not served.
    sizes = [30 * MIB, 40 * MIB, 20 * MIB, 1]
    assert replay([0, ~0, 1, 2, 3], sizes, 50 * MIB) == Replayed(False, 40 * MIB, 40 * MIB)


@pytest.mark.parametrize("torch", VERSIONS)
@pytest.mark.parametrize("capacity", [2**40, 10_600 * MIB, 10_580 * MIB], ids=["ample", "tight", "too small"])
def test_a_recorded_run(recorded: tuple[list[int], list[int]], capacity: int, torch: tuple[int, int]) -> None:
    events, sizes = recorded
    found = replay(events, sizes, capacity, torch=torch)
    assert found == by_model(events, sizes, Allocator(capacity, torch=torch))
    assert found.fits == (capacity >= 10_600 * MIB)  # 10,606 MiB where nothing has to be given back


def test_ties_make_a_difference_in_the_recorded_run(recorded: tuple[list[int], list[int]]) -> None:
    assert len({replay(*recorded, 2**40, torch=torch).allocated for torch in VERSIONS}) > 1


CHOICES = st.lists(
    st.one_of(st.integers(1, 2**13), st.integers(1, 40 * MIB), st.integers(-30, -1)), min_size=1, max_size=80
)


def drawn(choices: list[int]) -> tuple[list[int], list[int]]:
    """Requests of the positive numbers; each negative one frees one of the living."""
    events, sizes, live = list[int](), list[int](), list[int]()
    for choice in choices:
        if choice > 0:
            live.append(len(sizes))
            events.append(len(sizes))
            sizes.append(choice)
        elif live:
            events.append(~live.pop(choice % len(live)))
    return events, sizes


@settings(deadline=None, max_examples=300)
@given(choices=CHOICES, capacity=st.integers(2, 200), torch=st.sampled_from(VERSIONS))
def test_random_requests(choices: list[int], capacity: int, torch: tuple[int, int]) -> None:
    events, sizes = drawn(choices)
    model = by_model(events, sizes, Allocator(capacity * MIB, torch=torch))
    assert replay(events, sizes, capacity * MIB, torch=torch) == model


@st.composite
def near_thresholds(draw: st.DrawFn) -> tuple[list[int], list[int]]:
    """Sizes around every threshold of the allocator, allocated and freed in any order."""
    exact = st.sampled_from([1, 512, MIB, 10 * MIB, 11 * MIB, 20 * MIB, 21 * MIB, 31 * MIB])
    near = exact | exact.flatmap(lambda size: st.integers(max(1, size - 700), size + MIB // 2))
    sizes = draw(st.lists(near, min_size=1, max_size=60))
    events, alive = list[int](), list[int]()
    for buffer in range(len(sizes)):
        events.append(buffer)
        alive.append(buffer)
        for _ in range(draw(st.integers(0, 2))):
            if alive:
                events.append(~alive.pop(draw(st.integers(0, len(alive) - 1))))
    return events, sizes


@settings(deadline=None, max_examples=300)
@given(made=near_thresholds(), capacity=st.sampled_from([2**40, 300 * MIB, 120 * MIB, 44 * MIB]))
def test_requests_near_the_thresholds(made: tuple[list[int], list[int]], capacity: int) -> None:
    assert replay(*made, capacity) == by_model(*made, Allocator(capacity))


@settings(deadline=None, max_examples=50)
@given(
    choices=CHOICES,
    text=st.sampled_from(["expandable_segments:True", "max_split_size_mb:20", "per_process_memory_fraction:0.5"]),
)
def test_other_configurations_go_to_the_model(choices: list[int], text: str) -> None:
    events, sizes = drawn(choices)
    config = AllocatorConfig.parse(text)
    model = by_model(events, sizes, Allocator(150 * MIB, config, total=160 * MIB))
    assert replay(events, sizes, 150 * MIB, config, total=160 * MIB) == model


def test_another_configuration_gives_another_answer() -> None:
    # 30 MiB take a segment of their own and 5 MiB one of 20; or both share an expandable one, mapped 20 MiB at a time.
    # 22 MiB go where the 30 were: 27 MiB are in use, 35 were.
    events, sizes = [0, 1, ~0, 2], [30 * MIB, 5 * MIB, 22 * MIB]
    config = AllocatorConfig.parse("expandable_segments:True")
    assert replay(events, sizes, 2**40) == Replayed(True, 35 * MIB, 50 * MIB)
    assert replay(events, sizes, 2**40, config) == Replayed(True, 35 * MIB, 40 * MIB)


def test_the_plain_configuration_does_not(monkeypatch: pytest.MonkeyPatch) -> None:
    """The fast path is taken where it can be: else the tests above compare the model with itself."""
    monkeypatch.delattr(replay_fast, "_replay_model")
    assert replay([0], [1], MIB * 4, torch=(2, 11)).fits
    assert replay([0], [1], MIB * 4, torch=(2, 13)).fits
    with pytest.raises(NameError):
        replay([0], [1], MIB * 4, torch=(2, 12))
