"""Where the rounds of a loop begin that trains nothing: an evaluation, a generation. A recording does not say it; that
the same ops come again does."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

from memgraph.files.stacks import Site
from memgraph.trace import ENDS, Action, Events, Phase
from memgraph.trace.rows import Buffers

_FEWEST = 4
"""Rounds from which on ops are said to come again."""
_LONGEST = 100_000
"""Allocations, from the end of a stretch, that are looked at."""


def rounds(
    buffers: Buffers, events: Events, sites: Sequence[Site], phases: Sequence[Phase]
) -> tuple[int, ...]:  # fmt: skip
    """The events at which rounds begin, in stretches that no backward follows.

    Args:
        sites: what the ops of the events are indices of.
    """
    follows = {one.start: other.name for one, other in pairwise(phases)}
    plain = [p for p in phases if p.name in ("forward", "recorded", "load") and follows.get(p.start) != "backward"]
    return tuple(event for phase in plain for event in _within(buffers, events, sites, phase))


def _within(buffers: Buffers, events: Events, sites: Sequence[Site], phase: Phase) -> list[int]:
    actions, _, ops = events.columns[:3]
    made = [event for event in range(phase.start, phase.stop) if actions[event] == Action.ALLOC and ops[event] >= 0]
    made = made[-_LONGEST:]
    length, period = repeated([(sites[ops[event]].op, sites[ops[event]].source) for event in made])
    if not period:
        return []
    last = made[-2 * period : -period]
    begins = _least(buffers, events, last[0], made[-period])
    return made[len(made) - length + last.index(begins) :: period]


def _least(buffers: Buffers, events: Events, start: int, stop: int) -> int:
    """The allocation in a round before which least is alive: there one ends, and the next begins."""
    actions, named = events.columns[:2]
    alive, found = 0, (0, start)
    for event in range(start, stop):
        if actions[event] == Action.ALLOC:
            found = min(found, (alive, event))
            alive += buffers.sizes[named[event]]
        elif actions[event] in ENDS:
            alive -= buffers.sizes[named[event]]
    return found[1]


def repeated(names: Sequence[object]) -> tuple[int, int]:
    """How many at the end are the same few again and again, at least four times, and how many these are; (0, 0) if none
    are. What comes before, such as a first round that makes more, counts for nothing.

    The borders of the reversed sequence (Knuth, Morris, Pratt) tell the shortest period of each of its beginnings.
    """
    back = names[::-1]
    borders, best, length = [0] * len(back), 0, 0
    for place in range(1, len(back)):
        known = borders[place - 1]
        while known and back[known] != back[place]:
            known = borders[known - 1]
        borders[place] = known = known + (back[known] == back[place])
        period = place + 1 - known
        if (place + 1) // period >= _FEWEST and len(set(back[:period])) > 1:
            best, length = period, (place + 1) // period * period
    return length, best
