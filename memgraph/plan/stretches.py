"""A run cut into stretches: the forward and the backward of each unit, and what lies between them.

Units are told by the modules that ran the ops. Two runs of the same steps, with other units checkpointed, have the same
stretches in the same order, though not the same ops in them: that is what lets them be compared.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from memgraph.errors import MemgraphError
from memgraph.trace import Trace

NOBODY = -1
"""The unit of what belongs to none."""


class NotComparable(MemgraphError):
    """Two runs do not have the same stretches."""


class Stretch(NamedTuple):
    """Ops `first` ≤ i < `last` of a run."""

    step: int
    phase: str
    unit: int
    first: int
    last: int

    @property
    def empty(self) -> bool:
        """Whether no op is in it."""
        return self.first == self.last

    @property
    def ops(self) -> range:
        """Its ops, by index."""
        return range(self.first, self.last)


def owners(trace: Trace, units: Mapping[str, int]) -> list[int]:
    """The unit of each op, by its module's path or that of a module around it."""
    known: dict[str, int] = {}

    def unit_of(path: str) -> int:
        if path not in known:
            parent = path.rpartition(".")[0]
            known[path] = units[path] if path in units else unit_of(parent) if path else NOBODY
        return known[path]

    return [unit_of(op.module) for op in trace.ops]


def cut(trace: Trace, owner: Sequence[int]) -> list[Stretch]:
    """The stretches of a run in order: in every phase a gap, a unit, a gap, a unit, …, a gap. Gaps may be empty; what
    lies between two stretches of the same unit belongs to it."""
    return [part for phase in _phases(trace) for part in _cut_phase(*phase, owner)]


def _phases(trace: Trace) -> list[tuple[int, str, int, int]]:
    """Runs of ops of one step and phase."""
    found: list[tuple[int, str, int, int]] = []
    for index, op in enumerate(trace.ops):
        phase = trace.phases[op.phase]
        if found and found[-1][:2] == (phase.step, phase.name):
            found[-1] = (*found[-1][:3], index + 1)
        else:
            found.append((phase.step, phase.name, index, index + 1))
    return found


def _cut_phase(step: int, phase: str, first: int, last: int, owner: Sequence[int]) -> list[Stretch]:
    parts, place = [], first
    for unit, start, stop in _runs(first, last, owner):
        parts += [Stretch(step, phase, NOBODY, place, start), Stretch(step, phase, unit, start, stop)]
        place = stop
    return [*parts, Stretch(step, phase, NOBODY, place, last)]


def _runs(first: int, last: int, owner: Sequence[int]) -> list[tuple[int, int, int]]:
    """(unit, first op, last op), for each run of ops of one unit, whatever is between them that is nobody's."""
    runs: list[tuple[int, int, int]] = []
    for index in range(first, last):
        unit = owner[index]
        if unit != NOBODY and runs and runs[-1][0] == unit:
            runs[-1] = (unit, runs[-1][1], index + 1)
        elif unit != NOBODY:
            runs.append((unit, index, index + 1))
    return runs


def turns(stretches: Sequence[Stretch]) -> list[int]:
    """The gaps, by index, where a step turns from forward to backward: its loss, usually, and what is around it."""
    found = []
    for index, (one, two) in enumerate(zip(stretches, stretches[1:], strict=False)):
        if (one.phase, two.phase) == ("forward", "backward"):
            found += [index, index + 1]
    return found


def pairs(
    reference: Trace, one: Sequence[Stretch], other: Trace, two: Sequence[Stretch]
) -> list[tuple[Stretch, Stretch]]:
    """The stretches of two runs side by side; gaps an op at a time where their ops are the same.

    Raises:
        NotComparable: the stretches are not the same.
    """
    for left, right in zip(one, two, strict=False):
        if left[:3] != right[:3]:
            raise NotComparable(f"step {left.step}, {left.phase}: once checkpointed, modules run in another order")
    if len(one) != len(two):
        raise NotComparable("once checkpointed, the run does not have the same phases")
    return [
        pair for left, right in zip(one, two, strict=True) for pair in _pair(reference, left, other, right)
        if not (pair[0].empty and pair[1].empty)
    ]  # fmt: skip


def _pair(reference: Trace, left: Stretch, other: Trace, right: Stretch) -> Iterable[tuple[Stretch, Stretch]]:
    if left.unit == NOBODY and _names(reference, left) == _names(other, right):
        return zip(by_op(left), by_op(right), strict=True)
    return [(left, right)]


def _names(trace: Trace, part: Stretch) -> list[str]:
    return [trace.ops[index].name for index in part.ops]


def by_op(part: Stretch) -> list[Stretch]:
    """A stretch an op at a time."""
    return [part._replace(first=index, last=index + 1) for index in part.ops]


def events_of(trace: Trace, part: Stretch) -> range:
    """The events of a stretch; what happened before any op counts with the first."""
    when = trace.events.columns[2]
    start = bisect_left(when, part.first) if part.first else 0
    return range(start, max(start, bisect_left(when, part.last)))
