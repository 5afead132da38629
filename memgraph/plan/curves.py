"""Requested bytes over a run, with some buffers left out because they are counted in another way."""

from __future__ import annotations

from array import array
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from memgraph.plan.stretches import NOBODY, Stretch, events_of
from memgraph.trace import Action, Trace


class Level(NamedTuple):
    """Bytes before a stretch, at most in it, and after it."""

    before: int
    high: int
    after: int

    @property
    def rise(self) -> int:
        """How far it goes up at most."""
        return self.high - self.before

    @property
    def rest(self) -> int:
        """How much more there is after it than before."""
        return self.after - self.before


class Curve:
    """One run's requested bytes.

    Args:
        trace: the run.
        without: buffers that do not count.
    """

    def __init__(self, trace: Trace, without: Sequence[int] = ()) -> None:
        self.trace = trace
        self.without = frozenset(without)
        self.bytes: Sequence[int] = trace.usage[0] if not without else _less(trace, without)

    def level(self, part: Stretch, extra: Mapping[int, tuple[int, int]] | None = None) -> Level:
        """Bytes around and in a stretch.

        Args:
            extra: of the buffers left out, those that count here after all, between two events.
        """
        events = events_of(self.trace, part)
        before = self.bytes[events.start - 1] if events.start else 0
        inside = list(self.bytes[events.start : events.stop])
        for buffer, (start, stop) in (extra or {}).items():
            size = self.trace.buffers[buffer].size
            before += size if start < events.start <= stop else 0
            for event in range(max(start, events.start), min(stop, events.stop)):
                inside[event - events.start] += size
        return Level(before, max(before, max(inside, default=before)), inside[-1] if inside else before)


def _less(trace: Trace, without: Sequence[int]) -> array[int]:
    change = array("q", bytes(8 * (len(trace.events) + 1)))
    for buffer in without:
        life = trace.lives[buffer]
        change[life.start] += trace.buffers[buffer].size
        change[life.stop] -= trace.buffers[buffer].size
    curve, left_out = array("q"), 0
    for event, size in enumerate(trace.usage[0]):
        left_out += change[event]
        curve.append(size - left_out)
    return curve


def left_by(curve: Curve, part: Stretch, owner: Sequence[int]) -> dict[int, int]:
    """How many bytes more each unit's buffers hold after a stretch than before it."""
    trace = curve.trace
    actions, buffers = trace.events.columns[:2]
    change: dict[int, int] = {}
    for event in events_of(trace, part):
        if actions[event] in (Action.ALLOC, Action.FREE) and buffers[event] not in curve.without:
            buffer = trace.buffers[buffers[event]]
            unit = owner[buffer.op] if buffer.op >= 0 else NOBODY
            change[unit] = change.get(unit, 0) + (buffer.size if actions[event] == Action.ALLOC else -buffer.size)
    return change
