"""Another run's curve on the clock of one: a recording on a prediction, a plan's effect on what was before."""

from __future__ import annotations

from array import array
from collections import Counter

from memgraph.trace import Phase, Trace


def laid_over(trace: Trace, other: Trace) -> array[float]:
    """The other run's requested bytes at each event of `trace`, NaN where it has no such phase.

    Phases of one name and step are stretched onto each other, the n-th on the n-th; where none agree, the whole run is.
    A stretch that stands for several events of the other run takes the highest, so no peak is hidden.
    """
    curve = array("d", [float("nan")]) * len(trace.events)
    theirs = _named(other)
    pairs = [(phase, theirs[name]) for name, phase in _named(trace).items() if name in theirs]
    whole = (Phase("", 0, 0, len(trace.events)), Phase("", 0, 0, len(other.events)))
    for ours, match in pairs or [whole]:
        _stretch(curve, ours, match, other.usage[0])
    return curve


def _named(trace: Trace) -> dict[tuple[str, int, int], Phase]:
    """The phases by name, step, and how many of that name and step were before; empty ones left out."""
    seen: Counter[tuple[str, int]] = Counter()
    found = {}
    for phase in trace.phases:
        name = (phase.name, phase.step)
        if phase.stop > phase.start:
            found[(*name, seen[name])] = phase
        seen[name] += 1
    return found


def _stretch(curve: array[float], ours: Phase, theirs: Phase, values: array[int]) -> None:
    span, length = ours.stop - ours.start, theirs.stop - theirs.start
    for place in range(span if length else 0):
        start = theirs.start + place * length // span
        stop = theirs.start + max((place + 1) * length // span, place * length // span + 1)
        curve[ours.start + place] = max(values[start:stop])
