"""From traces to the problem's numbers: one run with nothing changed, and one for each policy with every unit under it.

The bytes at a moment are those of the reference run there, plus what each unit's choice has changed by then: the sum,
over the stretches so far, of how much more its stretch left behind under that choice. Stretches of no unit change too,
where autocast drops its copies of the weights; what died there counts for the unit that made it. Buffers whose life
hangs on several units (`shared`) are left out of all this and counted by themselves.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from memgraph.plan.compare import LOSS, Comparison, Moments, Part, Trial, loss_ops
from memgraph.plan.curves import Curve, Level, left_by
from memgraph.plan.problem import KEEP, Choice, Moment, Problem
from memgraph.plan.runs import Run
from memgraph.plan.shared import Held, find_shared
from memgraph.plan.stretches import NOBODY, Stretch, owners
from memgraph.trace import Op, Trace
from memgraph.units import format_bytes

Cost = Callable[[Op], int]
"""Time of an op in picoseconds."""


@dataclass
class _Column:
    """What a choice changes: bytes after a moment, and at it; and time. The reference's own rise is in the bases."""

    lasting: dict[int, int] = field(default_factory=dict)
    rises: dict[int, int] = field(default_factory=dict)
    falling: dict[int, int] = field(default_factory=dict)
    """The rise at moments where shared buffers die, with them."""
    cost: int = 0


def build_problem(reference: Run, trials: Sequence[Trial], units: Sequence[str], time_of: Cost) -> Problem:
    """The problem of choosing for every unit between keeping all and the policies that were tried.

    Args:
        reference: nothing changed.
        trials: one run for each policy.
        units: paths of modules in the order of their forwards; the last may be `LOSS`.
        time_of: what an op costs.

    Raises:
        NotComparable: the runs do not have the same stretches.
    """
    return _Builder(reference, trials, units, time_of).problem()


class _Builder:
    def __init__(self, reference: Run, trials: Sequence[Trial], units: Sequence[str], time_of: Cost) -> None:
        self.units, self.time_of = tuple(units), time_of
        self.moments = Moments(reference, units)
        self.comparisons: list[Comparison] = []
        self.choices = [Choice(KEEP, (unit,), 0) for unit in range(len(units))]
        for trial in trials:
            self.comparisons.append(Comparison(self.moments, trial, len(self.choices)))
            self.choices += [Choice(trial.policy, group, 0) for group in trial.groups]
        self.held = find_shared(self.moments, self.comparisons)
        self.columns = [_Column() for _ in self.choices]
        self.doubts: dict[str, None] = {}
        self.shared: dict[frozenset[int], int] = {}

    def problem(self) -> Problem:
        reference = _Side(self.moments.run, self.held, [held.mine for held in self.held])
        base = [reference.level(part, [place]) for place, part in enumerate(self.moments.stretches)]
        falls = {place for held in self.held for place in held.until.values() if place < len(self.moments)}
        falls = {place for place in falls if self.moments.stretches[place].unit != NOBODY}
        falling = {place: reference.level(self.moments.stretches[place], [place], self._dying(place)) for place in falls}
        for comparison, number in zip(self.comparisons, range(len(self.comparisons)), strict=True):
            side = _Side(comparison.trial.run, self.held, [held.theirs[number] for held in self.held])
            _Fill(self, comparison, reference, side, base, falling).all()
        rows = self._rows(base, falling)
        choices = tuple(choice._replace(cost=column.cost) for choice, column in zip(self.choices, self.columns, strict=True))
        trace = self.moments.run.trace
        step = sum(map(self.time_of, last_step(trace, range(len(trace.ops)))))
        return Problem(self.units, choices, rows, step, tuple(map(tuple, map(sorted, self.shared))), tuple(self.doubts))
