"""What several streams do to a run's memory: what each has reserved, and how early blocks may come back that other
streams used."""

from __future__ import annotations

from bisect import bisect_right, insort
from collections import Counter
from itertools import pairwise
from typing import NamedTuple

from memgraph.analyze.served import eagerly, is_long, lately, reserved_between
from memgraph.trace import Action, Trace
from memgraph.trace.rows import numbers


class Bounds(NamedTuple):
    """The highest bytes of a figure: blocks that other streams used, or that a library may hold for some time, come
    back somewhere between at once and when it is certain that they are done with. The trace has the latter of the
    streams, and the former of libraries. Of reserved, the lowest and the highest of the ends and of what is between."""

    kind: str
    """`requested`, `allocated`, `active`, `reserved`."""
    eager: int
    lazy: int


def uses_streams(trace: Trace) -> bool:
    """Whether anything was allocated on another stream than the default one."""
    return any(numbers(trace.buffers, "stream"))


def leaves_open(trace: Trace) -> bool:
    """Whether the order of streams may leave figures open. A recording knows when blocks came back, so nothing is open
    there."""
    return (trace.waits or bool(trace.late)) and trace.origin == "predicted"


def bounds(trace: Trace) -> tuple[Bounds, ...]:
    """The figures that the order of streams leaves open; none for most runs, and none of a long trace."""
    if not leaves_open(trace) or is_long(trace):
        return ()
    early, late = eagerly(trace), lately(trace)
    rows = [Bounds(kind, getattr(early, kind), getattr(late, kind)) for kind in ("requested", "allocated", "active")]
    reserved = (early.reserved, late.reserved, *reserved_between(trace))
    rows.append(Bounds("reserved", min(reserved), max(reserved)))
    return tuple(row for row in rows if row.eager != row.lazy)


def reserved_by_stream(trace: Trace) -> dict[int, int]:
    """Bytes that each stream's segments had when most was reserved; they sum to `trace.peak.reserved`."""
    if not trace.peak.reserved:
        return {}
    if not uses_streams(trace):
        return {0: trace.peak.reserved}
    owners = owners_of_segments(trace)
    held: Counter[int] = Counter()
    top = trace.usage[2].index(trace.peak.reserved)
    pieces = _Pieces()
    for place in trace.places(Action.SEGMENT_ALLOC, Action.SEGMENT_FREE):
        action, _, _, address, size = trace.events[place]
        if place > top:
            break
        if action is Action.SEGMENT_ALLOC:
            pieces.add(address, owners.get(place, 0))
            held[owners.get(place, 0)] += size
        else:
            held[pieces.at(address)] -= size
    return {stream: held[stream] for stream in sorted(held) if held[stream]}


class _Pieces:
    """Stretches of addresses taken from the card, by their starts, each with something that is known of it."""

    def __init__(self) -> None:
        self._starts: list[int] = []
        self._of: dict[int, int] = {}

    def add(self, start: int, known: int) -> int:
        """What was known of one at the same place; -1 if there was none."""
        before = self._of.get(start, -1)
        if before < 0:
            insort(self._starts, start)
        self._of[start] = known
        return before

    def at(self, address: int) -> int:
        """What is known of the piece that an address lies in."""
        place = bisect_right(self._starts, address) - 1
        return self._of[self._starts[place]] if place >= 0 else 0

    def between(self, start: int, stop: int) -> list[int]:
        """The same of those that start there."""
        first, last = (bisect_right(self._starts, edge - 1) for edge in (start, stop))
        return [self._of[each] for each in self._starts[first:last]]


def owners_of_segments(trace: Trace) -> dict[int, int]:
    """Event that took memory from the card → the stream it was for: that of the first block in it. An expandable
    segment grows by pieces, of which a block may have several."""
    owners: dict[int, int] = {}
    if not uses_streams(trace):
        return owners
    actions, buffers, _, addresses, sizes = trace.events.columns
    streams, taken = numbers(trace.buffers, "stream"), trace.places(Action.SEGMENT_ALLOC)
    pieces, unused = _Pieces(), set[int]()
    for place, stop in pairwise([*taken, len(actions)]):
        unused.discard(pieces.add(addresses[place], place))
        unused.add(place)
        while unused and (place := place + 1) < stop:  # as a rule the block that it was taken for is the next event
            if actions[place] != Action.ALLOC:
                continue
            start, end = addresses[place], addresses[place] + sizes[place]
            for piece in (pieces.at(start), *pieces.between(start, end)):
                if piece in unused:
                    unused.remove(piece)
                    owners[piece] = streams[buffers[place]]
    return owners
