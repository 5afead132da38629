"""`Trace`: arithmetic on a hand-made run, the columns of events, and each conservation law broken once."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from memgraph.errors import InvariantError
from memgraph.trace import Action, Category, Event, Events, Life, Phase, Trace, Usage
from tests.conftest import Tape

MIB = 2**20


# ---- figures of the toy run: the table beside the fixture shows where each number comes from


def test_usage_after_each_event(toy: Trace) -> None:
    requested, allocated, reserved = toy.usage
    assert list(requested) == [0, 1000, 1100, 1700, 2300, 4300, 2300, 3300, 2700, 2100, 3100, 2100]
    assert list(allocated) == [0, 1024, 1536, 2560, 3584, 5632, 3584, 4608, 3584, 2560, 3584, 2560]
    assert list(reserved) == [2 * MIB] * 12


def test_usage_at_a_moment(toy: Trace) -> None:
    assert toy.usage_at(5) == Usage(4300, 5632, 2 * MIB)
    assert toy.usage_at(-1) == Usage(0, 0, 0)  # before the first event


def test_the_peak_and_where_it_falls(toy: Trace) -> None:
    peak = toy.peak
    assert (peak.requested, peak.allocated, peak.reserved) == (4300, 5632, 2 * MIB)
    assert (peak.event, peak.phase, peak.step) == (5, "backward", 1)
    assert (peak.op, peak.module) == ("aten.mm.default", "blocks.1.mlp")


def test_the_three_peaks_need_not_fall_together(tape: Tape) -> None:
    """600 requested in two blocks of 512 is less than 700 in one of 1024, and takes as much. A segment that comes and
    goes is reserved all the same."""
    tape.segment(2048)
    small = [tape.alloc(300, Category.ACTIVATION) for _ in range(2)]  # allocated 512 + 512
    third = tape.alloc(1, Category.ACTIVATION)  # 601 requested, 1536 allocated
    for buffer in (*small, third):
        tape.free(buffer)
    tape.alloc(700, Category.ACTIVATION)  # 1024 allocated
    tape.segment(4096)
    peak = tape.trace().peak
    assert (peak.requested, peak.allocated, peak.reserved, peak.event) == (700, 1536, 2048 + 4096, 7)


def test_the_first_of_equal_peaks_is_the_peak(tape: Tape) -> None:
    tape.segment(MIB)
    tape.free(tape.alloc(10, Category.TEMPORARY))
    tape.free(tape.alloc(10, Category.TEMPORARY))
    assert tape.trace().peak.event == 1


def test_a_segment_can_be_given_back(tape: Tape) -> None:
    tape.segment(4096)
    tape.events.append(Event(Action.SEGMENT_FREE, -1, -1, 0, 4096))
    assert list(tape.trace().usage[2]) == [4096, 0]


def test_after_load_is_the_model_alone(toy: Trace) -> None:
    assert toy.after_load == Usage(1000, 1024, 2 * MIB)


def test_without_a_load_nothing_is_loaded(toy: Trace) -> None:
    phases = tuple(phase for phase in toy.phases if phase.name != "load")
    assert dataclasses.replace(toy, phases=phases).after_load == Usage(0, 0, 0)


def test_lives(toy: Trace) -> None:
    end = 12  # of what outlives the run: one past its last event
    assert toy.lives == (Life(1, end), Life(2, end), Life(3, 9), Life(4, 8), Life(5, 6), Life(7, 11), Life(10, end))


@pytest.mark.parametrize(
    ("event", "alive"), [(0, ()), (1, (0,)), (5, (0, 1, 2, 3, 4)), (6, (0, 1, 2, 3)), (11, (0, 1, 6))]
)
def test_who_is_alive(toy: Trace, event: int, alive: tuple[int, ...]) -> None:
    assert toy.live_at(event) == alive
    assert sum(toy.buffers[index].size for index in alive) == toy.usage_at(event).requested


def test_phases_and_ops_of_events(toy: Trace) -> None:
    names = [toy.phase_at(event).name for event in range(12)]
    assert names == ["load"] * 2 + ["input"] + ["forward"] * 2 + ["backward"] * 5 + ["optimizer"] * 2
    assert toy.phase_at(99) == Phase("", 0, 99, 100)
    op = toy.op_at(9)
    assert op is not None and (op.module, op.forward) == ("blocks.0.mlp", 2)


def test_an_event_outside_any_op(tape: Tape) -> None:
    tape.segment(MIB)
    assert tape.trace().op_at(0) is None


def test_a_run_that_allocated_nothing(empty: Trace) -> None:
    assert empty.peak == (0, 0, 0, -1, "", 0, "", "", 0)
    assert empty.after_load == Usage(0, 0, 0) and empty.lives == () and empty.live_at(-1) == () and empty.fits
    empty.self_check()


def test_it_fits_unless_the_allocator_ran_out(tape: Tape) -> None:
    tape.segment(MIB)
    assert tape.trace().fits
    tape.out_of_memory(99)
    trace = tape.trace()
    assert not trace.fits and trace.usage_at(1) == Usage(0, 0, MIB)  # a refusal takes nothing
    trace.self_check()


def test_a_trace_does_not_change(toy: Trace) -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        toy.gpu = "h200"  # type: ignore[misc]


# ---- events


ROWS = [Event(Action.SEGMENT_ALLOC, -1, -1, 2**40, 2**21), Event(Action.ALLOC, 0, 3, 2**40, 512)]


def test_events_are_rows_kept_in_columns() -> None:
    events = Events(ROWS)
    assert [list(column) for column in events.columns] == [[2, 0], [-1, 0], [-1, 3], [2**40, 2**40], [2**21, 512]]
    assert [column.typecode for column in events.columns] == ["b", "q", "q", "q", "q"]  # 1 + 4 × 8 = 33 bytes a row
    assert list(events) == ROWS and len(events) == 2
    assert events[0] == ROWS[0] and events[-1] == ROWS[1] and events[0].action is Action.SEGMENT_ALLOC


def test_a_slice_of_events_is_events() -> None:
    part = Events(ROWS)[1:]
    assert isinstance(part, Events) and list(part) == ROWS[1:]


def test_events_are_equal_by_content() -> None:
    assert Events(ROWS) == Events(columns=Events(ROWS).columns) and hash(Events(ROWS)) == hash(Events(iter(ROWS)))
    assert Events(ROWS) != Events(ROWS[:1]) and Events(ROWS) != ROWS and Events() == Events([])


def test_no_event_is_out_of_range() -> None:
    with pytest.raises(IndexError):
        Events(ROWS)[2]


# ---- the laws


def test_the_toy_keeps_every_law(toy: Trace) -> None:
    toy.self_check()


def _events(change: Callable[[list[Event]], Any]) -> Callable[[Trace], Trace]:
    def broken(trace: Trace) -> Trace:
        rows = list(trace.events)
        change(rows)
        return dataclasses.replace(trace, events=Events(rows))

    return broken


def _row(index: int, **fields: Any) -> Callable[[Trace], Trace]:
    return _events(lambda rows: rows.__setitem__(index, rows[index]._replace(**fields)))


def _entry(table: str, index: int, **fields: Any) -> Callable[[Trace], Trace]:
    def broken(trace: Trace) -> Trace:
        rows = list(getattr(trace, table))
        rows[index] = rows[index]._replace(**fields)
        return dataclasses.replace(trace, **{table: tuple(rows)})

    return broken


_buffer, _op, _phase = (partial(_entry, table) for table in ("buffers", "ops", "phases"))


def _unknown_action(trace: Trace) -> Trace:
    events = Events(trace.events)
    events.columns[0][0] = max(Action) + 1
    return dataclasses.replace(trace, events=events)


TWICE = "allocated or freed more than once, or never"
ORDER = "not 0 <= .* requested <= .* allocated <= .* reserved"
STRETCHES = "phases are not stretches of the run in order"
BROKEN = {
    "never allocated": (_row(10, action=Action.FREE), TWICE),
    "allocated twice": (_events(lambda rows: rows.insert(6, rows[5])), TWICE),
    "freed twice": (_events(lambda rows: rows.insert(6, rows[6])), TWICE),
    "freed before": (_events(lambda rows: rows.insert(5, rows.pop(6))), "buffer 4 is freed before it is allocated"),
    "block smaller than asked": (_row(1, size=999), f"event 1: {ORDER}"),
    "more allocated than reserved": (_row(0, size=5631), f"event 5: {ORDER}"),
    "a free returns less": (_row(6, size=6000), f"event 6: {ORDER}"),
    "segments below zero": (_events(lambda rows: rows.append(Event(Action.SEGMENT_FREE, -1, -1, 0, 2**21))), ORDER),
    "negative size": (_buffer(1, size=-1001), f"event 2: {ORDER}"),
    "action": (_unknown_action, "an event is of a kind that is not known"),
    "alloc of no buffer": (_row(1, buffer=-1), "an event names a buffer that is not there"),
    "alloc of a buffer too far": (_row(1, buffer=7), "an event names a buffer that is not there"),
    "free of no buffer": (_row(6, buffer=-1), "an event names a buffer that is not there"),
    "segment with a buffer": (_row(0, buffer=0), "an event names a buffer that is not there"),
    "op of an event": (_row(1, op=7), "an event names an op that is not there"),
    "op of an event below": (_row(1, op=-2), "an event names an op that is not there"),
    "op of a buffer": (_buffer(0, op=7), "a buffer names an op that is not there"),
    "op of a buffer below": (_buffer(0, op=-2), "a buffer names an op that is not there"),
    "phase of an op": (_op(0, phase=5), "an op names a phase"),
    "phase of an op below": (_op(0, phase=-1), "an op names a phase"),
    "forward op": (_op(0, forward=7), "an op names a phase or a forward op that is not there"),
    "forward op below": (_op(0, forward=-2), "an op names a phase or a forward op that is not there"),
    "phase past the end": (_phase(-1, stop=13), STRETCHES),
    "phase before the start": (_phase(0, start=-1), STRETCHES),
    "phases that overlap": (_phase(1, start=1), STRETCHES),
    "phase inside out": (_phase(1, start=3, stop=2), STRETCHES),
}


@pytest.mark.parametrize("law", BROKEN)
def test_a_broken_law_is_named(toy: Trace, law: str) -> None:
    break_it, message = BROKEN[law]
    with pytest.raises(InvariantError, match=message):
        break_it(toy).self_check()


def test_what_is_alive_at_the_peak_adds_up(toy: Trace) -> None:
    """A law between two ways to count: here the one is told a wrong result of the other."""
    toy.spans[0][4], toy.spans[1][4] = 4, 5  # 2000 bytes are not alive at 5
    with pytest.raises(InvariantError, match="the buffers alive at the peak hold 2300 bytes, the peak is 4300"):
        toy.self_check()


# ---- properties of any run


@st.composite
def runs(draw: st.DrawFn) -> Trace:
    """A run of allocations and frees in any lawful order."""
    tape, alive = Tape(), []
    tape.phase("load", 0)
    tape.segment(64 * MIB)
    for _ in range(draw(st.integers(1, 40))):
        if alive and draw(st.booleans()):
            tape.free(alive.pop(draw(st.integers(0, len(alive) - 1))))
        else:
            alive.append(tape.alloc(draw(st.integers(1, MIB)), draw(st.sampled_from(Category))))
    return tape.trace()


@given(runs())
def test_a_lawful_run_passes(trace: Trace) -> None:
    trace.self_check()


@given(runs())
def test_usage_is_the_sum_of_who_is_alive(trace: Trace) -> None:
    for event, requested in enumerate(trace.usage[0]):
        assert requested == sum(trace.buffers[index].size for index in trace.live_at(event))
    assert trace.peak.requested == max(trace.usage[0]) == trace.usage[0][trace.peak.event]


@given(runs(), st.data())
def test_a_lost_event_is_noticed(trace: Trace, data: st.DataObject) -> None:
    """Any alloc that goes missing; and a free that comes twice."""
    allocs = [index for index, event in enumerate(trace.events) if event.action is Action.ALLOC]
    rows = list(trace.events)
    del rows[data.draw(st.sampled_from(allocs))]
    with pytest.raises(InvariantError):
        dataclasses.replace(trace, events=Events(rows), phases=()).self_check()


# Blocks that wait for other streams.


def waiting(tape: Tape) -> Trace:
    tape.phase("run", 0)
    tape.segment(2 * MIB)
    first = tape.alloc(1000, Category.ACTIVATION)  # 1024
    second = tape.alloc(600, Category.ACTIVATION, stream=1)  # 1024
    tape.wait(first)
    third = tape.alloc(100, Category.ACTIVATION)  # 512
    tape.complete(first)
    tape.free(second)
    tape.wait(third)  # never done
    return tape.trace()


def test_what_waits_is_active_and_requested_and_not_allocated(tape: Tape) -> None:
    trace = waiting(tape)
    trace.self_check()
    #                             +1024  +1024   wait   +512   done   free   wait
    assert list(trace.active) == [0, 1024, 2048, 2048, 2560, 1536, 512, 512]
    assert list(trace.usage[1]) == [0, 1024, 2048, 1024, 1536, 1536, 512, 0]
    assert list(trace.usage[0]) == [0, 1000, 1600, 1600, 1700, 700, 100, 100]
    assert trace.peak[:3] == (1700, 2048, 2 * MIB) and trace.peak.active == 2560
    assert trace.lives == ((1, 5), (2, 6), (4, 8)) and trace.live_at(3) == (0, 1)
    assert trace.waits and [buffer.stream for buffer in trace.buffers] == [0, 1, 0]


def test_where_nothing_waits_active_is_allocated(toy: Trace) -> None:
    assert not toy.waits and toy.active is toy.usage[1] and toy.peak.active == toy.peak.allocated


@pytest.mark.parametrize("broken", ["complete twice", "complete what was not freed", "wait twice", "free what waits"])
def test_a_block_waits_once_and_comes_back_once(tape: Tape, broken: str) -> None:
    tape.segment(2 * MIB)
    block = tape.alloc(1000, Category.ACTIVATION)
    steps = {
        "complete twice": (tape.wait, tape.complete, tape.complete), "complete what was not freed": (tape.complete,),
        "wait twice": (tape.wait, tape.wait, tape.complete), "free what waits": (tape.wait, tape.free),
    }  # fmt: skip
    for step in steps[broken]:
        step(block)
    with pytest.raises(InvariantError, match=r"without having waited|more than once"):
        tape.trace().self_check()
