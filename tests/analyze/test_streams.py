"""What several streams do to a run, in numbers."""

from __future__ import annotations

import dataclasses
import json
from itertools import product

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import memgraph
from memgraph.analyze import served as analyze_served
from memgraph.analyze.compare import compare, within
from memgraph.analyze.program import Irregular, requests_of
from memgraph.analyze.replay_fast import Replayed, replay
from memgraph.analyze.served import served
from memgraph.analyze.streams import Bounds, bounds, owners_of_segments, reserved_by_stream
from memgraph.analyze.unasked import unasked
from memgraph.errors import InvariantError
from memgraph.render import check_json, table, table_check
from memgraph.render import json as as_json
from memgraph.trace import Action, Buffer, Event, Events, Trace, columns
from tests.fuzzing import seeded

MIB = 2**20


def mebibytes(count: int) -> torch.Tensor:
    return torch.empty(count * MIB, dtype=torch.uint8, device="cuda")


def run(*, known: bool, memory: int | None = None) -> Trace:
    """16 MiB that a side stream used, then 16 more; 12 of the side stream's own."""
    with memgraph.virtual_gpu("h100", memory=memory) as gpu:
        side = torch.cuda.Stream()
        block = mebibytes(16)
        block.record_stream(side)
        del block
        if known:
            side.synchronize()
        block = mebibytes(16)
        with torch.cuda.stream(side):
            other = mebibytes(12)
        del block, other
    gpu.trace.self_check()
    return gpu.trace


@pytest.fixture(scope="module")
def open_run() -> Trace:
    return run(known=False)


@pytest.fixture(scope="module")
def known_run() -> Trace:
    return run(known=True)


def test_where_no_wait_says_when_a_block_comes_back_there_are_two_bounds(open_run: Trace) -> None:
    assert bounds(open_run) == (
        Bounds("requested", 28 * MIB, 44 * MIB),  # 16 + 12; and the first 16
        Bounds("active", 28 * MIB, 44 * MIB),
        Bounds("reserved", 28 * MIB, 44 * MIB),  # the second 16 take the first's place, or not
    )
    assert open_run.peak.allocated == 28 * MIB


def half_back() -> Trace:
    """The card is done with 40 MiB when 22 are asked for, and with 22 MiB after that."""
    with memgraph.virtual_gpu("h100") as gpu:
        side = torch.cuda.Stream()
        large, small = mebibytes(40), mebibytes(22)
        large.record_stream(side), small.record_stream(side)
        del large
        between = torch.empty(1, device="cuda")  # an allocation: the card may be behind by one
        del small
        live = [mebibytes(22), mebibytes(40)]
        torch.cuda.synchronize()
        live += [mebibytes(40), mebibytes(22)]
        del live, between
    return gpu.trace


def test_what_is_half_back_may_reserve_more_than_either_end() -> None:
    """Early, 62 MiB serve two requests and two more need 62; late, the first two need 62. Between, 22 MiB are cut off
    the 40, so that both requests of 40 MiB need a segment: 62 + 40 + 40. A segment of 2 MiB comes besides."""
    reserved = bounds(half_back())[-1]
    assert reserved == Bounds("reserved", (62 + 62 + 2) * MIB, (62 + 40 + 40 + 2) * MIB)


def test_where_a_wait_says_so_there_is_nothing_open(known_run: Trace) -> None:
    assert known_run.waits and bounds(known_run) == ()
    assert (known_run.peak.active, known_run.peak.allocated, known_run.peak.reserved) == (28 * MIB,) * 3


def test_the_lazy_bound_is_what_the_model_does_with_the_trace(open_run: Trace) -> None:
    assert tuple(served(open_run)) == open_run.peak[:3]


def test_a_card_that_is_full_waits_for_the_streams() -> None:
    """The second 16 MiB do not fit beside the first: all streams are waited for, and the first's segment goes."""
    trace = run(known=False, memory=30 * MIB)
    assert trace.fits and trace.peak.reserved == 28 * MIB and bounds(trace) == ()


def test_reserved_by_stream(open_run: Trace) -> None:
    assert reserved_by_stream(open_run) == {0: 32 * MIB, 1: 12 * MIB}


def test_one_stream_has_it_all() -> None:
    with memgraph.virtual_gpu("h100") as gpu:
        mebibytes(16)
    assert reserved_by_stream(gpu.trace) == {0: 16 * MIB} and bounds(gpu.trace) == ()
    assert reserved_by_stream(dataclasses.replace(gpu.trace, events=gpu.trace.events[:0], phases=())) == {}


def test_expandable_segments_by_stream() -> None:
    with memgraph.virtual_gpu("h100", alloc_conf="expandable_segments:True") as gpu:
        held = [mebibytes(30)]
        with torch.cuda.stream(torch.cuda.Stream()):
            held += [mebibytes(30), mebibytes(50)]
        held.append(mebibytes(10))
    # pages of 20 MiB: 30 + 10 on one stream are two, 30 + 50 on the other four
    assert reserved_by_stream(gpu.trace) == {0: 40 * MIB, 1: 80 * MIB}


# Replayed.


def test_the_fast_replay_tells_streams_apart() -> None:
    sizes = [16 * MIB, 16 * MIB, 16 * MIB]
    assert replay([0, ~0, 1, ~1, 2, ~2], sizes, 2**40) == Replayed(True, 16 * MIB, 16 * MIB)
    assert replay([0, ~0, 1, ~1, 2, ~2], sizes, 2**40, streams=[0, 1, 0]) == Replayed(True, 16 * MIB, 32 * MIB)
    assert replay([0, ~0, 1, ~1, 2, ~2], sizes, 2**40, streams=[0, 0, 0]) == Replayed(True, 16 * MIB, 16 * MIB)


def test_laws_know_nothing_of_several_streams(open_run: Trace) -> None:
    with pytest.raises(Irregular, match="the run uses several streams"):
        requests_of(open_run)


# Told.


def test_the_report_says_what_streams_did(open_run: Trace, known_run: Trace) -> None:
    text = " ".join(table.report(open_run, 5).split())
    assert "Reserved by stream: 32.00 MiB by the default one, 12.00 MiB by stream 1." in text
    assert "Active at most: 44.00 MiB; blocks that other streams used count until these are done." in text
    assert "Open, for no wait says when other streams are done: requested 28.00 MiB to 44.00 MiB, active " in text
    assert "reserved 28.00 MiB to 44.00 MiB." in text
    assert "Open" not in table.report(known_run, 5)


def test_the_report_of_one_stream_says_nothing_of_streams() -> None:
    with memgraph.virtual_gpu("h100") as gpu:
        mebibytes(16)
    text = table.report(gpu.trace, 5)
    assert "by stream" not in text and "Active" not in text
    told = as_json.report(gpu.trace, 5)
    assert "reserved_by_stream" not in told and "bounds" not in told and "active" not in told["peak"]


def test_json_has_the_same(open_run: Trace) -> None:
    told = json.loads(json.dumps(as_json.report(open_run, 5)))
    assert told["peak"]["active"] == 44 * MIB
    assert told["reserved_by_stream"] == {"0": 32 * MIB, "1": 12 * MIB}
    assert told["bounds"]["reserved"] == {"eager": 28 * MIB, "lazy": 44 * MIB}


# Against a recording.


def measured(trace: Trace) -> Trace:
    return dataclasses.replace(trace, origin="measured", torch="2.13.0+cu130")


def test_a_recording_between_the_bounds_agrees(open_run: Trace, known_run: Trace) -> None:
    found = compare(open_run, measured(known_run))
    assert found.matched == found.measured == 3
    assert [row.kind for row in found.bounds] == ["requested", "active", "reserved"]
    assert found.ratios == {"requested": 1, "allocated": 1, "reserved": 1, "active": 1} and within(found, 0.0)
    assert check_json.report(found)["peak"]["reserved"] == {
        "predicted": 44 * MIB, "measured": 28 * MIB, "ratio": 1, "eager": 28 * MIB
    }  # fmt: skip
    text = " ".join(table_check.report(found, 5).split())
    assert "peak reserved 28.00 MiB to 44.00 MiB 28.00 MiB exact" in text


def test_a_recording_beyond_the_bounds_does_not(known_run: Trace, open_run: Trace) -> None:
    found = compare(known_run, measured(open_run))
    assert found.peaks[2].ratio == pytest.approx(28 / 44) and not within(found, 0.1)


def test_an_allocation_on_another_stream_is_another(known_run: Trace) -> None:
    buffers = tuple(buffer._replace(stream=1) if n == 1 else buffer for n, buffer in enumerate(known_run.buffers))
    found = compare(known_run, measured(dataclasses.replace(known_run, buffers=buffers)))
    assert (found.matched, found.measured) == (2, 3)
    assert [(row.kind, row.bytes) for row in found.differences] == [("stream", 0)]
    assert "on another stream" in table_check.report(found, 5)


def test_of_a_long_trace_it_is_said_what_is_not_asked(open_run: Trace, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(analyze_served, "LONGEST", 3)
    assert bounds(open_run) == ()
    assert "not asked: how far the order of streams leaves the figures open" in table.report(open_run, 8)
    assert as_json.report(open_run, 8)["not_asked"] == list(unasked(open_run))
    old = dataclasses.replace(open_run, torch="2.11.0")
    assert ["placement" in text or "puts segments" in text for text in unasked(old)] == [True, False]


def test_a_long_trace_says_the_same_of_its_streams(open_run: Trace, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where a segment is given back and taken again in other pieces, and a block lies over two of them."""
    few = reserved_by_stream(open_run), open_run.active, open_run.fits
    again = dataclasses.replace(open_run)
    monkeypatch.setattr(columns, "MANY", 1)
    assert (reserved_by_stream(again), again.active, again.fits) == few
    again.self_check()


def one_after_the_other(trace: Trace) -> dict[int, int]:
    """The owners of segments, by asking each block."""
    owners: dict[int, int] = {}
    taken: dict[int, int] = {}
    for place, event in enumerate(trace.events):
        if event.action is Action.SEGMENT_ALLOC:
            taken[event.address] = place
        elif event.action is Action.ALLOC:
            stop = event.address + event.size
            first = max((start for start in taken if start <= event.address), default=None)
            own = [taken[start] for start in taken if event.address <= start < stop or start == first]
            for piece in own:
                owners.setdefault(piece, trace.buffers[event.buffer].stream)
    return owners


@seeded(60)
@given(st.lists(st.tuples(st.sampled_from(["segment", "block", "block"]), st.integers(0, 9), st.integers(1, 3)),
                min_size=1, max_size=25))  # fmt: skip
def test_a_segment_is_the_stream_s_that_first_uses_it(rows: list[tuple[str, int, int]]) -> None:
    events, buffers = Events(), []
    for kind, address, size in [("segment", 0, 1), *rows]:
        if kind == "segment":
            events.append(Event(Action.SEGMENT_ALLOC, -1, -1, address, size))
        else:
            events.append(Event(Action.ALLOC, len(buffers), -1, address, size))
            buffers.append(Buffer(size, -1, stream=1 + (address + len(buffers)) % 3))
    trace = Trace("predicted", "h200", 100, "2.13.0", {}, (), tuple(buffers), events, ())
    assert owners_of_segments(trace) == (one_after_the_other(trace) if buffers else {})


def test_what_a_library_lets_go_of_before_or_without_its_time_is_no_fault(open_run: Trace) -> None:
    """A file may say so of any buffer."""
    for until in (0, 1, len(open_run.events)):
        trace = dataclasses.replace(open_run, late=tuple((index, until) for index in range(len(open_run.buffers))))
        trace.self_check()
        bounds(trace)


def test_waits_that_are_wrong_are_wrong_in_many_as_in_few(open_run: Trace, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each event of each kind, and at each place."""
    verdicts = []
    for many in (10**9, 1):
        monkeypatch.setattr(columns, "MANY", many)
        verdicts.append([broken(open_run, *change) for change in product(range(len(open_run.events)), repeat=2)])
    assert verdicts[0] == verdicts[1]
    assert any(len(kinds) < len(Action) for kinds in verdicts[0])


def broken(trace: Trace, place: int, other: int) -> list[Action]:
    """The kinds that an event is not of, when it comes at another place."""
    found = []
    for action in Action:
        rows = list(trace.events)
        rows.insert(other, rows.pop(place)._replace(action=action))
        try:
            dataclasses.replace(trace, events=Events(rows)).self_check()
        except InvariantError:
            found.append(action)
    return found
