"""What waits in cycles of references for Python's collector, and how far the peak depends on when that runs.

It runs by counts of all Python objects, which a run without the card can follow only so far: libraries make others
there. So where much waits, the report says what the peak is if it runs at once, and if it never does by itself.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Mapping
from itertools import accumulate

from memgraph.trace import Trace
from memgraph.units import format_bytes

SHOWS = 20
"""One part in so many of the peak: of less it is not said."""

_SAID = (
    "when Python's collector runs is not known exactly, and reference cycles{} hold {} at the peak: were they freed at "
    "once, the peak would be {}, and {} if the collector never ran by itself; gc.collect() where the objects are let "
    "go of, or a cycle that is broken, makes it certain"
)


class Waiting:
    """The buffers of a run that only the collector frees."""

    def __init__(self) -> None:
        self._freed: dict[int, bool] = {}
        """Those, with those that would be freed, and whether the program asked for the collection."""
        self._asked: list[int] = []
        """Events before which it asked for one of all objects."""

    def collected(self, buffers: Iterable[int], event: int, *, asked: bool) -> None:
        """A collection has freed these.

        Args:
            event: number of events when it was done.
            asked: whether the program asked for it, of all objects.
        """
        self._freed |= dict.fromkeys(buffers, asked)
        if asked:
            self._asked.append(event)

    def left(self, buffers: Iterable[int]) -> None:
        """These wait when the program is over."""
        self._freed |= dict.fromkeys(buffers, False)

    def said(self, trace: Trace) -> tuple[str, ...]:
        """The assumption about the moments of collections, where the peak depends on them."""
        cycles = [held for held in trace.held if held.kind == "cycle"]
        buffers = {*self._freed, *(buffer for held in cycles for buffer in held.buffers)}
        if not buffers:
            return ()
        at_once, never = _last_used(trace, buffers), {buffer: self._stops(trace, buffer) for buffer in buffers}
        lower, upper = _highest(trace, at_once), _highest(trace, never)
        if upper - lower <= trace.peak.requested // SHOWS:
            return ()
        return (_SAID.format(
            " and ".join(sorted({f" of `{held.name}` objects" for held in cycles if held.name})),
            *map(format_bytes, (_waiting_at_the_peak(trace, at_once), lower, upper)),
        ),)  # fmt: skip

    def _stops(self, trace: Trace, buffer: int) -> int:
        """The last moment that it can be freed: when a collection is asked for that finds it, or the end."""
        stop = trace.spans[1][buffer]
        if self._freed.get(buffer, False):
            return stop
        return next((event for event in self._asked if event > stop), len(trace.events))


def _waiting_at_the_peak(trace: Trace, used: Mapping[int, int]) -> int:
    peak, (_, stops) = trace.peak.event, trace.spans
    return sum(trace.sizes[buffer] for buffer, event in used.items() if event <= peak < stops[buffer])


def _last_used(trace: Trace, buffers: Iterable[int]) -> dict[int, int]:
    """By buffer the event at which the op that read it last, itself or through a view, was over."""
    used, after, (starts, stops) = _last_readers(trace), _first_events(trace), trace.spans
    found = {}
    for buffer in buffers:
        op = trace.buffers[buffer].op
        found[buffer] = min(stops[buffer], max(starts[buffer] + 1, after[used[op]])) if op >= 0 else stops[buffer]
    return found


def _last_readers(trace: Trace) -> list[int]:
    """By op the last one that read its result; itself where none did."""
    owners = {buffer.op for buffer in trace.buffers}
    made: list[int] = []
    used = list(range(len(trace.ops)))
    for number, op in enumerate(trace.ops):
        made.append(number if number in owners or not op.reads else made[op.reads[0]])
        for read in op.reads:
            used[made[read]] = number
    return used


def _first_events(trace: Trace) -> array[int]:
    """By op the first event of a later one."""
    after = array("q", [len(trace.events)]) * len(trace.ops)
    ops = trace.events.columns[2]
    for event in range(len(ops) - 1, -1, -1):
        if ops[event] > 0:
            after[ops[event] - 1] = event
    for op in range(len(after) - 2, -1, -1):
        after[op] = min(after[op], after[op + 1])
    return after


def _highest(trace: Trace, stops: Mapping[int, int]) -> int:
    """The peak requested if these buffers died at these events."""
    changes = array("q", [0]) * (len(trace.events) + 1)
    for buffer, (start, stop) in enumerate(zip(*trace.spans, strict=True)):
        changes[start] += trace.sizes[buffer]
        changes[stops.get(buffer, stop)] -= trace.sizes[buffer]
    return max(accumulate(changes), default=0)
