"""Which of a region's results are worth keeping together: sets of them, from little memory to much.

What it saves to keep a result, by the bytes that it takes, says which are dearest. To keep the dearest ones, up to some
point, is the best that a region can do with the memory it then takes; and many regions that stop at different points
make up for what lies between two of these. Few regions do not, so these have more sets: the best for so many bytes.
"""

from __future__ import annotations

import itertools
from collections.abc import Collection, Sequence
from itertools import accumulate

from memgraph.plan.plan_file import KEPT_OPS, keep_places
from memgraph.plan.results import Result

NESTED = 12
"""Sets of a region of which each has all of the one before."""
_ALL = 400
"""Sets of all regions together, from which on there are no more of a region than that: each is an option of the
problem, and a run to be worked out."""
_UNITS = 256
"""Of bytes, in which the best set for so many is looked for."""


def sets_of(results: Sequence[Result], regions: int) -> list[tuple[Result, ...]]:
    """Sets of results, by their bytes; the last with everything that saves time.

    Args:
        results: of one region.
        regions: how many there are.
    """
    dearest = sorted((one for one in results if one.device), key=lambda one: -one.device / max(1, one.size))
    found = [tuple(dearest[:stop]) for stop in _stops(dearest, NESTED)]
    more = max(0, _ALL // regions - NESTED)
    found += [best for best in _for_so_many_bytes(dearest, more) if best]
    alike = {frozenset(one.twins for one in kept): kept for kept in found}
    return sorted(alike.values(), key=lambda kept: sum(one.size for one in kept))


def named(ops: Collection[str]) -> list[str]:
    """The policies that keep different things of a model that runs these ops."""
    kinds: dict[frozenset[str], str] = {}
    for kind, kept in KEPT_OPS.items():
        kinds.setdefault(frozenset(kept).intersection(ops), kind)
    return list(kinds.values())


def kind_of(results: Sequence[Result]) -> str:
    """The `Region.keep` that keeps them."""
    return keep_places((one.op, one.place) for one in results)


def _for_so_many_bytes(results: Sequence[Result], count: int) -> list[tuple[Result, ...]]:
    """The sets that save most time in an even row of sizes: a knapsack, in whole units of bytes, rounded up."""
    unit = max(1, -(-sum(one.size for one in results) // _UNITS))
    best: list[tuple[int, tuple[Result, ...]]] = [(0, ())] * (_UNITS + 1)
    for one in results:
        units = -(-one.size // unit)
        for room in range(_UNITS, units - 1, -1):
            time, kept = best[room - units]
            if time + one.device > best[room][0]:
                best[room] = time + one.device, (*kept, one)
    return [best[_UNITS * place // (count + 1)][1] for place in range(1, count + 1)]


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
