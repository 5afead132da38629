"""A recording that began in the middle of a run, and the same steps of a prediction."""

from __future__ import annotations

import dataclasses
from array import array
from collections.abc import Iterator
from typing import NamedTuple

from memgraph.analyze.align import align
from memgraph.analyze.paired import Run
from memgraph.files.snapshot_history import without
from memgraph.trace import Action, Event, Events, Phase, Trace

_TRIED = 8
"""Steps of a prediction, from its end, that a window may begin with."""


class Beside(NamedTuple):
    """Two runs that begin and end with the same steps."""

    predicted: Trace
    measured: Trace
    steps: tuple[int, int] | None
    """The first and the last of the prediction's that are compared; None if all are."""


def beside(predicted: Trace, measured: Trace) -> Beside:
    """The part of a prediction that a recording shows, if that began with memory in use. What was there at first has
    no order: on both sides it comes by its size."""
    length = _steps_in(measured)
    if not _began_late(measured) or _began_late(predicted) or not length:
        return Beside(predicted, measured, None)
    theirs = part(measured, _first_asked(measured, measured.phases[0].stop), len(measured.events))
    last = max((phase.step for phase in predicted.phases), default=0)
    best: tuple[int, Trace, int] | None = None
    for step in range(last - length + 1, max(0, last - length + 1 - _TRIED), -1):
        start, stop = _span(predicted, measured, step, step + length - 1)
        ours = part(predicted, start, stop)
        same = sum(stretch.length for stretch in align(Run(ours).sizes, Run(theirs).sizes))
        if best is None or same > best[0]:
            best = same, ours, step
    if best is None:
        return Beside(predicted, measured, None)
    return Beside(best[1], theirs, (best[2], best[2] + length - 1))


def _began_late(trace: Trace) -> bool:
    return bool(trace.phases) and trace.phases[0].name == "before"


def _steps_in(measured: Trace) -> int:
    return len({phase.step for phase in measured.phases if phase.step and phase.stop > phase.start})


def _span(predicted: Trace, measured: Trace, first: int, last: int) -> tuple[int, int]:
    """The events of these steps; of the last as far as to the phase in which the recording ends."""
    start = _first_asked(predicted, min(phase.start for phase in predicted.phases if phase.step == first))
    name = [phase.name for phase in measured.phases if phase.stop > phase.start][-1]
    ends = [phase.stop for phase in predicted.phases if phase.step == last and phase.name == name]
    return start, max(ends, default=max(phase.stop for phase in predicted.phases if phase.step == last))


def _first_asked(trace: Trace, start: int) -> int:
    """Where memory is asked for first: what is freed before that is of the step before, gradients that are let go."""
    actions = trace.events.columns[0]
    asks = (int(Action.ALLOC), int(Action.SEGMENT_ALLOC))
    return next((place for place in range(start, len(actions)) if actions[place] in asks), start)


def part(trace: Trace, start: int, stop: int) -> Trace:
    """The events from `start` to before `stop`; what was there then comes before them, as a phase of its own."""
    front = [*_segments(trace, start), *_blocks(trace, start)]
    events = Events(columns=[
        array(code, [row[place] for row in front]) + column[start:stop]
        for place, (code, column) in enumerate(zip("bqqqq", trace.events.columns, strict=True))
    ])  # fmt: skip
    shift, end = len(front) - start, len(events)
    phases = tuple(
        Phase(name, step, *(min(max(place + shift, len(front)), end) for place in (first, last)))
        for name, step, first, last in trace.phases[1:]
    )
    return dataclasses.replace(
        trace, events=events, phases=(Phase("before", 0, 0, len(front)), *phases), held=(), facts=(), rounds=()
    )


def _segments(trace: Trace, start: int) -> Iterator[Event]:
    """What was taken from the card by then, in as many pieces as it has."""
    spans: list[tuple[int, int]] = []
    for action, _, _, address, size in zip(*(column[:start] for column in trace.events.columns), strict=True):
        if action == Action.SEGMENT_ALLOC:
            spans.append((address, address + size))
        elif action == Action.SEGMENT_FREE:
            spans = without(spans, address, address + size)
    for low, high in sorted(spans):
        yield Event(Action.SEGMENT_ALLOC, -1, -1, low, high - low)


def _blocks(trace: Trace, start: int) -> list[Event]:
    """The allocations of what was alive, by their bytes."""
    alive = trace.live_at(start - 1) if start else ()
    made = (trace.events[trace.spans[0][buffer]] for buffer in alive)
    return sorted((event._replace(op=-1) for event in made), key=lambda event: -trace.buffers[event.buffer].size)
