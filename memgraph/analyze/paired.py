"""Two runs side by side by their allocations: which is which, and which of them live otherwise."""

from __future__ import annotations

from array import array
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from memgraph.analyze.align import Stretch
from memgraph.trace import ENDS, Action, Op, Role, Trace

_ALLOC, _ENDS = int(Action.ALLOC), tuple(map(int, ENDS))


def births(trace: Trace) -> array[int]:
    """The places of its allocations among its events."""
    return array("q", (place for place, action in enumerate(trace.events.columns[0]) if action == _ALLOC))


class Run:
    """One run by its allocations in order; the clock is how many there were."""

    def __init__(self, trace: Trace) -> None:
        self.trace = trace
        actions, buffers = trace.events.columns[:2]
        self.births = births(trace)
        self.buffers = array("q", map(buffers.__getitem__, self.births))
        self.sizes = array("q", (trace.buffers[index].size for index in self.buffers))
        self.streams = array("q", (trace.buffers[index].stream for index in self.buffers))
        place = array("q", [0]) * len(trace.buffers)
        for order, buffer in enumerate(self.buffers):
            place[buffer] = order
        self.deaths = array("q", [len(self.sizes) + 1]) * len(self.sizes)
        """When each dies: after so many allocations; one more than there are if it never does."""
        clock = 0
        for action, buffer in zip(actions, buffers, strict=True):
            if action == _ALLOC:
                clock += 1
            elif action in _ENDS:
                self.deaths[place[buffer]] = clock

    def keys(self, streams: bool) -> array[int]:
        """What an allocation is known by: its bytes, and its stream where that is asked."""
        if not streams:
            return self.sizes
        return array("q", (size << 8 | stream & 255 for size, stream in zip(self.sizes, self.streams, strict=True)))

    def op(self, order: int) -> Op | None:
        """The op of an allocation, if it is known."""
        index = self.trace.buffers[self.buffers[order]].op if 0 <= order < len(self.buffers) else -1
        return self.trace.ops[index] if index >= 0 else None

    def role(self, order: int) -> Role:
        """What an allocation is to its op."""
        return self.trace.buffers[self.buffers[order]].role

    def maker(self, order: int) -> tuple[Op | None, Role]:
        """A recording does not say whether an op's output or something besides it was allocated."""
        known = self.trace.origin == "predicted"
        return self.op(order), self.role(order) if known else Role.TEMPORARY

    def phase(self, order: int) -> tuple[str, int]:
        """The phase that it falls in, and its step."""
        phase = self.trace.phase_at(self.births[order])
        return phase.name, phase.step


class Pairs:
    """Which allocation of the recording is which of the prediction, and what time there is what time here."""

    def __init__(self, stretches: Sequence[Stretch], measured: int) -> None:
        self._rights = [stretch.right for stretch in stretches]
        self._stretches = stretches
        self.measured = measured

    def clock(self, measured: int) -> int:
        """How many predicted allocations there were after so many recorded ones."""
        place = bisect_right(self._rights, measured - 1) - 1
        if place < 0:
            return 0
        left, right, length = self._stretches[place]
        return left + min(measured - right, length)

    def __iter__(self) -> Iterator[tuple[int, int]]:
        for left, right, length in self._stretches:
            yield from zip(range(left, left + length), range(right, right + length), strict=True)


class OtherLife(NamedTuple):
    """A predicted allocation that is freed between other allocations than it was."""

    order: int
    """Of the prediction."""
    mine: int
    theirs: int
    """When it dies, on the clock of the prediction."""


def other_lives(ours: Run, theirs: Run, pairs: Pairs) -> Iterator[OtherLife]:
    """Those of the pairs, in the order of the prediction."""
    end, their_end = len(ours.sizes) + 1, len(theirs.sizes) + 1
    for left, right in pairs:
        mine, death = ours.deaths[left], theirs.deaths[right]
        there = end if death == their_end else pairs.clock(death)
        if mine != there and not (mine >= end - 1 and there >= end - 1):  # at the end of the run all is one
            yield OtherLife(left, mine, there)
