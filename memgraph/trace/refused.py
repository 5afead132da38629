"""Where a phase was refused memory."""

from __future__ import annotations

from memgraph.trace.parts import Action, Events, Phase


def until_refused(phase: Phase, events: Events) -> Phase:
    """A phase up to where it was refused memory, if that ended it: what is freed after that was there for its sake."""
    actions = events.columns[0][phase.start : phase.stop]
    if Action.OUT_OF_MEMORY not in actions:
        return phase
    place = len(actions) - 1 - actions[::-1].index(Action.OUT_OF_MEMORY)
    return phase if Action.ALLOC in actions[place:] else phase._replace(stop=phase.start + place)
