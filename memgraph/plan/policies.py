"""Which of a region's results are worth keeping together: sets of them, from little memory to much.

What it saves to keep a result, by the bytes that it takes, says which are dearest. Keeping the dearest ones, up to some
point, is the best that a region can do with the memory it then takes; and regions that stop at different points make up
for what lies between two of these.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from itertools import accumulate

from memgraph.plan.plan_file import keep_places
from memgraph.plan.results import Result

MOST = 12
"""Sets of a region: each is an option of the problem."""


def nested(results: Sequence[Result], most: int = MOST) -> list[tuple[Result, ...]]:
    """At most so many sets, each with all of the one before, the last with everything that saves time."""
    dearest = sorted((one for one in results if one.device), key=lambda one: -one.device / max(1, one.size))
    return [tuple(dearest[:stop]) for stop in sorted(_stops(dearest, most))]


def kind_of(results: Sequence[Result]) -> str:
    """The `Region.keep` that keeps them."""
    return keep_places((one.op, one.place) for one in results)


def _stops(dearest: Sequence[Result], most: int) -> set[int]:
    """Where to stop: after the last result, and so often in between that straight lines from one stop to the next say
    best what the others would do."""
    curve = list(zip(accumulate((one.size for one in dearest), initial=0),
                     accumulate((one.device for one in dearest), initial=0), strict=True))  # fmt: skip
    stops = {len(dearest)} - {0}
    while len(stops) < min(most, len(dearest)):
        stops.add(_furthest(curve, sorted({0, *stops})))
    return stops


def _furthest(curve: Sequence[tuple[int, int]], stops: Sequence[int]) -> int:
    """The place between two stops that is furthest above the line from one to the other; of those alike, in whole
    percents of the time, the one that has most bytes on both sides."""
    places = [(low, place, high) for low, high in itertools.pairwise(stops) for place in range(low + 1, high)]

    def score(between: tuple[int, int, int]) -> tuple[int, int]:
        (x, time), (at, mine), (end, later) = (curve[place] for place in between)
        line = time + (later - time) * (at - x) / max(1, end - x)
        return round(100 * (mine - line) / max(1, curve[-1][1])), min(at - x, end - at)

    return max(places, key=score)[1]
