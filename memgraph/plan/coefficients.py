"""From traces to the problem's numbers: one run with nothing changed, and one for each policy with every unit under it.

The bytes at a moment are those of the reference run there, plus what each unit's choice has changed by then: the sum,
over the stretches so far, of how much more its stretch left behind under that choice. Stretches of no unit change too,
where autocast drops its copies of the weights; what died there counts for the unit that made it. Buffers whose life
hangs on several units (`shared`) are left out of all this and counted by themselves.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from memgraph.plan.compare import LOSS, Comparison, Moments, Part, Trial, loss_ops
from memgraph.plan.curves import Curve, Level, left_by
from memgraph.plan.problem import KEEP, Choice, Moment, Problem
from memgraph.plan.runs import Run
from memgraph.plan.shared import Held, find_shared
from memgraph.plan.stretches import NOBODY, Stretch, events_of, owners
from memgraph.trace import Op, Trace
from memgraph.units import format_bytes

Cost = Callable[[Op], int]
"""Time of an op in picoseconds."""


@dataclass
class _Column:
    """What a choice changes, in bytes by moment, and its time."""

    lasting: dict[int, int] = field(default_factory=dict)
    """After a moment and ever since."""
    passing: dict[int, int] = field(default_factory=dict)
    """At a moment."""
    falling: dict[int, int] = field(default_factory=dict)
    """At a moment where shared buffers die, as long as they are there."""
    cost: int = 0

    def heights(self, moments: int, passing: dict[int, int]) -> dict[int, int]:
        """Bytes more at each moment."""
        found, lasting = {}, 0
        for place in range(-1, moments):
            size = lasting + passing.get(place, 0)
            if size:
                found[place] = size
            lasting += self.lasting.get(place, 0)
        return found


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

    def problem(self) -> Problem:
        reference = Side(self.moments.run, self.held, [held.mine for held in self.held])
        base = [reference.level(part, range(place, place + 1)) for place, part in enumerate(self.moments.stretches)]
        falls = {place: self._fall(reference, place) for place in self._falls()}
        for number, comparison in enumerate(self.comparisons):
            side = Side(comparison.trial.run, self.held, [held.theirs[number] for held in self.held])
            _Filler(self, comparison, reference, side, base, falls).fill()
        shared: dict[frozenset[int], int] = {}
        rows = _Rows(self, shared).all(base, falls)
        choices = [choice._replace(cost=column.cost) for choice, column in zip(self.choices, self.columns, strict=True)]
        trace = self.moments.run.trace
        step = sum(map(self.time_of, last_step(trace, range(len(trace.ops)))))
        holders = tuple(tuple(sorted(choices)) for choices in shared)
        return Problem(self.units, tuple(choices), rows, step, holders, tuple(self.doubts))

    def _falls(self) -> set[int]:
        """The moments of units in which some shared buffer may die."""
        places = {place for held in self.held for place in held.until.values() if place < len(self.moments)}
        return {place for place in places if self.moments.stretches[place].unit != NOBODY}

    def _fall(self, reference: Side, place: int) -> Level:
        part = self.moments.stretches[place]
        return reference.level(part, range(place, place + 1), place, part.unit)


class Side:
    """One run's bytes without the shared buffers, which count in the moments that make them and, where asked, in
    those where they die."""

    def __init__(self, run: Run, held: Sequence[Held], buffers: Sequence[int]) -> None:
        self.run, self.held, self.buffers = run, held, buffers
        self.curve = Curve(run.trace, [buffer for buffer in buffers if buffer >= 0])

    def level(self, part: Stretch, moments: range, dying: int = -1, choice: int = -1) -> Level:
        """Bytes around and in a stretch.

        Args:
            moments: those that it covers; shared buffers made there count.
            dying: a moment; those that die there under `choice` count while they live.
        """
        extra = {}
        for held, buffer in zip(self.held, self.buffers, strict=True):
            if buffer >= 0 and held.made in moments:
                life = self.run.trace.lives[buffer]
                extra[buffer] = (life.start, life.stop)
            elif buffer >= 0 and 0 <= held.made < dying == held.until.get(choice):
                extra[buffer] = (self.run.trace.lives[buffer].start, self._end(part, buffer))
        return self.curve.level(part, extra)

    def _end(self, part: Stretch, buffer: int) -> int:
        """The event with which a buffer dies in a stretch, or would if nobody else held it: after the last op there
        that reads it."""
        stop, events = self.run.trace.lives[buffer].stop, events_of(self.run.trace, part)
        if stop < events.stop:
            return stop
        last = max((op for op in part.ops if buffer in self.run.reads[op]), default=part.last - 1)
        return bisect_left(self.run.trace.events.columns[2], last + 1)


class _Filler:
    """Fills the columns of one trial's choices."""

    def __init__(
        self, builder: _Builder, comparison: Comparison, one: Side, two: Side, base: Sequence[Level],
        falls: dict[int, Level],
    ) -> None:  # fmt: skip
        self.builder, self.comparison, self.one, self.two = builder, comparison, one, two
        self.base, self.falls = base, falls

    def fill(self) -> None:
        for part in self.comparison.parts:
            choice = self.comparison.decides(part)
            mine, theirs = self.one.level(part.left, part.moments), self.two.level(part.right, part.moments)
            self._lasting(part, choice, mine, theirs)
            if choice is not None:
                self._passing(part, choice, mine, theirs)
                self._cost(part, choice)
            elif theirs.rise > mine.rise:
                self._doubt(part, theirs.rise - mine.rise)

    def _lasting(self, part: Part, choice: int | None, mine: Level, theirs: Level) -> None:
        made_here = range(part.moments.start, part.moments.stop)
        more = self._rest(self.two, part.right, made_here) - self._rest(self.one, part.left, made_here)
        if not more:
            return
        if choice is not None:
            _add(self.builder.columns[choice].lasting, part.place, more)
            return
        for unit, size in self._made_by(part).items():
            if unit in self.comparison.choice:
                _add(self.builder.columns[self.comparison.choice[unit]].lasting, part.place, size)
            elif size:
                self._doubt(part, size)

    def _rest(self, side: Side, part: Stretch, _moments: range) -> int:
        return side.curve.level(part).rest

    def _made_by(self, part: Part) -> dict[int, int]:
        """How much more of each unit's buffers a part leaves."""
        one = left_by(self.one.curve, part.left, self.comparison.owner[0])
        two = left_by(self.two.curve, part.right, self.comparison.owner[1])
        return {unit: two.get(unit, 0) - one.get(unit, 0) for unit in one.keys() | two.keys()}

    def _passing(self, part: Part, choice: int, mine: Level, theirs: Level) -> None:
        """How much higher it goes in between. If several moments are one part, the first stands for all of them, and
        the others for what is left in the end."""
        column, after = self.builder.columns[choice], self.one.curve.level(part.left).after
        if not part.moments and theirs.rise > mine.rise:
            self._doubt(part, theirs.rise - mine.rise)
        for place in part.moments:
            base, fall = self.base[place], self.falls.get(place)
            first = place == part.place
            _add(column.passing, place, theirs.rise - base.rise if first else after - base.high)
            if fall is not None:
                decider = self.comparison.choice.get(part.unit, part.unit)
                dying = self.two.level(part.right, part.moments, place, decider)
                _add(column.falling, place, dying.rise - fall.rise if first else after - base.before - fall.rise)

    def _cost(self, part: Part, choice: int) -> None:
        time_of = self.builder.time_of
        one = sum(map(time_of, last_step(self.one.run.trace, part.left.ops)))
        two = sum(map(time_of, last_step(self.two.run.trace, part.right.ops)))
        self.builder.columns[choice].cost += two - one

    def _doubt(self, part: Part, size: int) -> None:
        where = f"step {part.left.step}, {part.left.phase}"
        self.builder.doubts[f"{self.comparison.trial.policy}: {format_bytes(abs(size))} in {where} are no unit's"] = None


class _Rows:
    """Puts the moments together."""

    def __init__(self, builder: _Builder, shared: dict[frozenset[int], int]) -> None:
        self.builder, self.shared = builder, shared

    def all(self, base: Sequence[Level], falls: dict[int, Level]) -> tuple[Moment, ...]:
        count = len(base)
        passing = [column.heights(count, column.passing) for column in self.builder.columns]
        falling = [column.heights(count, column.falling) for column in self.builder.columns]
        loss = _loss_moments(self.builder.moments)
        rows = []
        for place, level in enumerate(base):
            label = _describe(self.builder.moments, place, loss)
            rows.append(self._row(label, place, level.high, passing, beyond=place in falls))
            if place in falls:
                rows.append(self._row(label, place, level.before + falls[place].rise, falling, beyond=False))
        return tuple(rows)

    def _row(
        self, label: tuple[str, str], place: int, base: int, heights: Sequence[dict[int, int]], *, beyond: bool
    ) -> Moment:
        terms = {choice: column[place] for choice, column in enumerate(heights) if place in column}
        shared: dict[int, int] = {}
        for held in self.builder.held:
            holders = held.holders(place, beyond=beyond)
            if holders is None:
                base += held.size
            elif holders:
                base += self._count(holders, held.size, terms, shared)
        return Moment(*label, base, terms, shared)

    def _count(self, holders: frozenset[int], size: int, terms: dict[int, int], shared: dict[int, int]) -> int:
        """A buffer that some choices hold: bytes that are there anyway."""
        choices = self.builder.choices
        by_unit: dict[int, list[int]] = {}
        for choice in holders:
            for unit in choices[choice].units:
                by_unit.setdefault(unit, []).append(choice)
        for unit, deciding in by_unit.items():
            if len(deciding) == sum(unit in choice.units for choice in choices):
                return size  # whatever is chosen for this unit holds it
        if any(len(deciding) == len(holders) for deciding in by_unit.values()):
            for choice in holders:  # never two of them together
                _add(terms, choice, size)
        else:
            _add(shared, self.shared.setdefault(holders, len(self.shared)), size)
        return 0


def _add(sizes: dict[int, int], place: int, size: int) -> None:
    if size:
        sizes[place] = sizes.get(place, 0) + size


def last_step(trace: Trace, ops: range) -> list[Op]:
    """Those of some ops that the last full step ran."""
    last = max((phase.step for phase in trace.phases if phase.name == "backward"), default=0)
    return [trace.ops[index] for index in ops if trace.phases[trace.ops[index].phase].step == last]


def _loss_moments(moments: Moments) -> frozenset[int]:
    trace = moments.run.trace
    paths = {path: unit for unit, path in enumerate(moments.units) if path != LOSS}
    return frozenset(moments.of_op(op) for op in loss_ops(trace, owners(trace, paths)))


def _describe(moments: Moments, place: int, loss: frozenset[int]) -> tuple[str, str]:
    """What a moment is called, and its kind."""
    part = moments.stretches[place]
    if part.unit != NOBODY:
        return f"step {part.step}, {part.phase} of {moments.units[part.unit]}", part.phase
    op = moments.run.trace.ops[part.first]
    name = op.name.removeprefix("aten.").rpartition(".")[0] or op.name
    where = f" in {op.module}" if op.module else ""
    return f"step {part.step}, {part.phase}, {name}{where}", "loss" if place in loss else part.phase
