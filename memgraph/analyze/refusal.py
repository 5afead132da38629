"""Where a run was out of memory, and the part of a prediction that stands beside a run that ended so."""

from __future__ import annotations

from dataclasses import replace
from typing import NamedTuple

from memgraph.analyze.paired import births
from memgraph.files.snapshot_file import rounded
from memgraph.trace import Action, Trace


class Refusal(NamedTuple):
    """Where a run was out of memory."""

    allocation: int
    """How many were served before it."""
    size: int
    """Bytes that were asked for."""
    op: str
    phase: str
    step: int

    def is_that_of(self, other: Refusal) -> bool:
        """Of the same allocation. torch's history tells its size rounded up to 512 bytes."""
        return self.allocation == other.allocation and rounded(self.size) == rounded(other.size)


def refusal(trace: Trace, measured: Trace) -> Refusal | None:
    """Where a run beside this recording was out of memory; None if it was not.

    The hook refuses by requested bytes, and so a prediction is asked by them.
    """
    hooks = [one.settings.get("via") == "hook" for one in (trace, measured)]
    if hooks == [False, True] and not measured.fits:
        return _refusal_by_requests(trace, measured.memory)
    actions = trace.events.columns[0]
    if trace.fits:
        return None
    place = actions.index(Action.OUT_OF_MEMORY)
    phase, op = trace.phase_at(place), trace.op_at(place)
    count = actions[:place].count(Action.ALLOC)
    return Refusal(count, trace.events[place].size, op.name if op else "", phase.name, phase.step)


def _refusal_by_requests(trace: Trace, limit: int) -> Refusal | None:
    place = next((place for place, held in enumerate(trace.usage[0]) if held > limit), None)
    if place is None:
        return None
    phase, op = trace.phase_at(place), trace.op_at(place)
    count = trace.events.columns[0][:place].count(Action.ALLOC)
    return Refusal(count, trace.buffers[trace.events[place].buffer].size, op.name if op else "", phase.name, phase.step)


def as_far_as(predicted: Trace, measured: Trace) -> Trace:
    """A prediction goes on when the card is full, and a script does not: as many allocations as were recorded, if the
    recording ended so."""
    actions = measured.events.columns[0]
    if measured.fits or Action.ALLOC in actions[actions.index(Action.OUT_OF_MEMORY) :]:
        return predicted
    born = births(predicted)
    count = actions.count(Action.ALLOC)
    stop = born[count] if count < len(born) else len(predicted.events)
    while stop and predicted.events.columns[0][stop - 1] == Action.SEGMENT_ALLOC:  # taken for what was refused
        stop -= 1
    return replace(predicted, events=predicted.events[:stop])
