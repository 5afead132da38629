"""The curve of memory over a run, short enough to draw."""

from __future__ import annotations

import itertools
from typing import NamedTuple

from memgraph.trace import Trace


class Bin(NamedTuple):
    """A stretch of events and the highest requested bytes in it."""

    start: int
    stop: int
    high: int
    phase: str


def bins(trace: Trace, count: int) -> tuple[Bin, ...]:
    """The run in at most `count` stretches of equal length; none hides a peak."""
    events = len(trace.events)
    count = min(count, events)
    curve = trace.usage[0]
    edges = [events * place // count for place in range(count + 1)] if count else []
    return tuple(
        Bin(start, stop, max(curve[start:stop]), trace.phase_at(start).name)
        for start, stop in itertools.pairwise(edges)
    )
