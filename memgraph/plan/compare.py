"""A run with some units under a policy, beside the run with nothing changed."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from typing import NamedTuple

from memgraph.plan.runs import Run
from memgraph.plan.stretches import NOBODY, Stretch, by_op, cut, owners, pairs, turns
from memgraph.trace import Trace

LOSS = "the loss"
"""How the unit that is the loss is called. It has no module: it is what lies between the forward of the last unit and
the first backward."""


class Trial(NamedTuple):
    """A run in which some groups of units are under one policy, and all else as it was."""

    policy: str
    groups: tuple[tuple[int, ...], ...]
    """Units by index, in the order of their forwards; each group is one region."""
    run: Run


class Part(NamedTuple):
    """The same stretch of both runs."""

    moments: range
    """Of the reference run."""
    unit: int
    """The first unit of the group whose stretch it is."""
    left: Stretch
    """In the reference run."""
    right: Stretch
    """In the trial."""

    @property
    def place(self) -> int:
        """The moment that stands for it; the one before it where the reference run has none."""
        return self.moments.start if self.moments else self.moments.start - 1


class Moments:
    """The reference run's moments: every stretch of a unit, and what is between them an op at a time."""

    def __init__(self, run: Run, units: Sequence[str]) -> None:
        self.run, self.units = run, units
        parts = cut(run.trace, owner_of(run.trace, units, {}))
        self.stretches = [piece for part in parts for piece in ([part] if part.unit != NOBODY else by_op(part))]
        self._firsts = [stretch.first for stretch in self.stretches]

    def __len__(self) -> int:
        return len(self.stretches)

    def within(self, part: Stretch) -> range:
        """The moments that a stretch of the reference run covers."""
        return range(bisect_left(self._firsts, part.first), bisect_left(self._firsts, part.last))

    def of_op(self, op: int) -> int:
        """The moment that an op runs in."""
        return bisect_right(self._firsts, op) - 1

    def of_event(self, event: int) -> int:
        """The moment that an event falls in; one past the last for what never happens."""
        when = self.run.trace.events.columns[2]
        return self.of_op(max(0, when[event])) if event < len(when) else len(self)


class Comparison:
    """See the module's text.

    Args:
        moments: the reference run's.
        trial: the other run.
        first_choice: index of the choice that is the trial's first group; the others follow.

    Raises:
        NotComparable: the runs do not have the same stretches.
    """

    def __init__(self, moments: Moments, trial: Trial, first_choice: int) -> None:
        self.trial = trial
        leader = {unit: group[0] for group in trial.groups for unit in group}
        self.choice = {group[0]: first_choice + place for place, group in enumerate(trial.groups)}
        self.alone = first_choice if len(trial.groups) == 1 else None
        one, two = moments.run.trace, trial.run.trace
        self.owner = (owner_of(one, moments.units, leader), owner_of(two, moments.units, leader))
        sides = pairs(one, cut(one, self.owner[0]), two, cut(two, self.owner[1]))
        self.parts = [Part(moments.within(left), left.unit, left, right) for left, right in sides]
        self._firsts = [part.right.first for part in self.parts]

    def decides(self, part: Part) -> int | None:
        """The choice that changes a part: that of the group which runs, or the only one."""
        return self.choice.get(part.unit, self.alone)

    def part_of_op(self, op: int) -> Part:
        """The part that an op of the trial runs in."""
        return self.parts[bisect_right(self._firsts, max(op, self._firsts[0])) - 1]

    def part_of_event(self, event: int) -> Part | None:
        """The part that an event of the trial falls in; none for what never happens."""
        when = self.trial.run.trace.events.columns[2]
        return self.part_of_op(when[event]) if event < len(when) else None


def owner_of(trace: Trace, units: Sequence[str], leader: dict[int, int]) -> list[int]:
    """The unit of each op, or the first of its group; the loss is nobody's unless it is one of the groups."""
    paths = {path: leader.get(unit, unit) for unit, path in enumerate(units) if path != LOSS}
    owner = owners(trace, paths)
    loss = len(units) - 1
    if loss in leader and units[loss] == LOSS:
        for op in loss_ops(trace, owner):
            owner[op] = loss
    return owner


def loss_ops(trace: Trace, owner: Sequence[int]) -> list[int]:
    """The ops between the last unit's forward and the first one's backward."""
    parts = cut(trace, owner)
    return [op for place in turns(parts) for op in parts[place].ops]
