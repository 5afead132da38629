"""Buffers whose life hangs on more than one unit's choice: they are counted once, for as long as any of them holds on.

A tensor between two blocks lives until the last of its readers has let go: the block that made it and saved it for its
own backward, the next block that saved it or, checkpointed, keeps it as its input. A library's workspace exists from the
first op that needs it, and recomputing a product in the backward's thread may be that first.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from memgraph.plan.compare import Comparison, Moments, Part
from memgraph.plan.stretches import NOBODY, Stretch
from memgraph.trace import Role, Trace

FOREVER = 2**40


@dataclass
class Held:
    """One such buffer."""

    size: int
    made: int
    """The moment that makes it; from the next on it counts as held or not."""
    mine: int
    """Index in the reference run, -1 if it has none."""
    theirs: list[int]
    """Index in each trial, likewise."""
    until: dict[int, int] = field(default_factory=dict)
    """The last moment for which a choice holds it."""
    since: dict[int, int] = field(default_factory=dict)
    """The first moment from which a choice needs it, `NOBODY` for any choice; where one is missing, from when it is
    made."""
    always: int = -1
    """The last moment for which it is held whatever is chosen."""

    def holders(self, moment: int, *, beyond: bool) -> frozenset[int] | None:
        """The choices that hold it at a moment, or beyond it; None if it is there in any case."""
        if moment <= self.made:
            return frozenset()
        last = moment + beyond
        if self.always >= last or self.since.get(NOBODY, FOREVER) <= moment:
            return None
        return frozenset(
            choice for choice, until in self.until.items() if until >= last and self.since.get(choice, -1) <= moment
        )


def find_shared(moments: Moments, comparisons: Sequence[Comparison]) -> list[Held]:
    """All such buffers of the runs."""
    return [*_tensors(moments, comparisons), *_workspaces(moments, comparisons)]


def _tensors(moments: Moments, comparisons: Sequence[Comparison]) -> Iterator[Held]:
    """Those made in a forward that do not die at the same time in all runs, and that several units read."""
    matches = [_match(moments, comparison) for comparison in comparisons]
    suspects = {
        mine: None
        for comparison, match in zip(comparisons, matches, strict=True)
        for mine, theirs in match.items()
        if _dies_elsewhere(moments, comparison, mine, theirs)
    }
    readers = _Readers(moments, comparisons)
    for mine in sorted(suspects):
        if not all(mine in match for match in matches):
            continue  # the trial of the loss makes others
        buffer = moments.run.trace.buffers[mine]
        held = Held(buffer.size, moments.of_op(buffer.op), mine, [match[mine] for match in matches])
        readers.fill(held)
        if not readers.exclusive(held):
            yield held


def _match(moments: Moments, comparison: Comparison) -> dict[int, int]:
    """Buffers made in forwards: reference to trial, where both make the same ones."""
    one, two = _outputs(moments.run.trace), _outputs(comparison.trial.run.trace)
    found: dict[int, int] = {}
    for part in comparison.parts:
        if part.left.phase == "forward":
            left, right = _made_in(one, part.left), _made_in(two, part.right)
            if [size for _, size in left] == [size for _, size in right]:
                found.update({mine: theirs for (mine, _), (theirs, _) in zip(left, right, strict=True)})
    return found


def _outputs(trace: Trace) -> dict[int, list[tuple[int, int]]]:
    """(buffer, size) of what each op returned."""
    found: dict[int, list[tuple[int, int]]] = {}
    for index, buffer in enumerate(trace.buffers):
        if buffer.role is Role.OUTPUT:
            found.setdefault(buffer.op, []).append((index, buffer.size))
    return found


def _made_in(outputs: dict[int, list[tuple[int, int]]], part: Stretch) -> list[tuple[int, int]]:
    return [item for op in part.ops for item in outputs.get(op, ())]


def _dies_elsewhere(moments: Moments, comparison: Comparison, mine: int, theirs: int) -> bool:
    death = moments.of_event(moments.run.trace.lives[mine].stop)
    part = comparison.part_of_event(comparison.trial.run.trace.lives[theirs].stop)
    return death != len(moments) if part is None else death != part.place and death not in part.moments


class _Readers:
    """Who reads a buffer, in all runs."""

    def __init__(self, moments: Moments, comparisons: Sequence[Comparison]) -> None:
        self.moments, self.comparisons = moments, comparisons
        self._mine = _by_buffer(moments.run.reads)
        self._theirs = [_by_buffer(comparison.trial.run.reads) for comparison in comparisons]

    def fill(self, held: Held) -> None:
        """Say how long every choice holds a buffer: until its unit's last op that reads it; and what holds it besides,
        such as a variable of the model's or autocast's cache: until it dies in nobody's stretch."""
        for op in self._mine.get(held.mine, ()):
            self._hold(held, None, self.moments.of_op(op))
        self._hold(held, None, self.moments.of_event(self.moments.run.trace.lives[held.mine].stop))
        for comparison, theirs, reads in zip(self.comparisons, held.theirs, self._theirs, strict=True):
            death = comparison.part_of_event(comparison.trial.run.trace.lives[theirs].stop)
            for part in (*map(comparison.part_of_op, reads.get(theirs, ())), death):
                self._hold(held, comparison, FOREVER if part is None else part.place, part)

    def _hold(self, held: Held, comparison: Comparison | None, moment: int, part: Part | None = None) -> None:
        if comparison is None:
            unit = self.moments.stretches[moment].unit if moment < len(self.moments) else NOBODY
            choice = unit if unit != NOBODY else None
        else:
            choice = comparison.choice.get(part.unit) if part is not None else None
            if choice is None and part is not None and part.unit != NOBODY:
                return  # a unit that this trial leaves as it was
        if choice is None:
            held.always = max(held.always, moment)
        else:
            held.until[choice] = max(held.until.get(choice, -1), moment)

    def exclusive(self, held: Held) -> bool:
        """Whether one unit alone decides: no two of its holders can be chosen together."""
        units = Counter(unit for choice in held.until for unit in self._units(choice))
        return len(held.until) in units.values()

    def _units(self, choice: int) -> tuple[int, ...]:
        for comparison in self.comparisons:
            for group in comparison.trial.groups:
                if comparison.choice[group[0]] == choice:
                    return group
        return (choice,)


def _by_buffer(reads: Sequence[Sequence[int]]) -> dict[int, list[int]]:
    found: dict[int, list[int]] = {}
    for op, buffers in enumerate(reads):
        for buffer in buffers:
            found.setdefault(buffer, []).append(op)
    return found


# Workspaces.


@dataclass(frozen=True)
class _Use:
    """What an op must look like to need the workspace: as the one that first did."""

    backward: bool
    """In autograd's thread, whose handles are its own."""
    name: str
    dtypes: tuple[str, ...]
    dims: tuple[int, ...]


def _workspaces(moments: Moments, comparisons: Sequence[Comparison]) -> Iterator[Held]:
    """Those that some run takes earlier than another, or alone."""
    mine = _libraries(moments.run.trace)
    theirs = [_libraries(comparison.trial.run.trace) for comparison in comparisons]
    for key in dict.fromkeys([*mine, *(key for found in theirs for key in found)]):
        start = _start(moments, mine.get(key))
        starts = [_start_in(comparison, found.get(key)) for comparison, found in zip(comparisons, theirs, strict=True)]
        if any(other != start for other in starts):
            runs = [moments.run.trace, *(comparison.trial.run.trace for comparison in comparisons)]
            buffers = [mine.get(key, -1), *(found.get(key, -1) for found in theirs)]
            uses = {_use(trace, buffer) for trace, buffer in zip(runs, buffers, strict=True) if buffer >= 0}
            yield _needed(moments, comparisons, Held(key[1], -1, buffers[0], buffers[1:]), uses)


def _libraries(trace: Trace) -> dict[tuple[bool, int, int], int]:
    """Workspaces that libraries keep, by thread, size and number."""
    found: dict[tuple[bool, int, int], int] = {}
    for index, buffer in enumerate(trace.buffers):
        if buffer.role is Role.LIBRARY:
            thread, number = _in_backward(trace, buffer.op), 0
            while (thread, buffer.size, number) in found:
                number += 1
            found[thread, buffer.size, number] = index
    return found


def _in_backward(trace: Trace, op: int) -> bool:
    return trace.phases[trace.ops[op].phase].name == "backward"


def _start(moments: Moments, buffer: int | None) -> int:
    return FOREVER if buffer is None else moments.of_op(moments.run.trace.buffers[buffer].op)


def _start_in(comparison: Comparison, buffer: int | None) -> int:
    return FOREVER if buffer is None else comparison.part_of_op(comparison.trial.run.trace.buffers[buffer].op).place


def _use(trace: Trace, buffer: int) -> _Use:
    return _look(trace, trace.buffers[buffer].op)


def _look(trace: Trace, index: int) -> _Use:
    op = trace.ops[index]
    specs = op.inputs
    return _Use(_in_backward(trace, index), op.name, tuple(spec.dtype for spec in specs), tuple(len(spec.shape) for spec in specs))


def _needed(moments: Moments, comparisons: Sequence[Comparison], held: Held, uses: set[_Use]) -> Held:
    """Who needs it, and from when on."""
    names = {use.name for use in uses}
    trace = moments.run.trace
    for index, op in enumerate(trace.ops):
        if op.name in names and _look(trace, index) in uses:
            moment = moments.of_op(index)
            _need(held, moments.stretches[moment].unit, moment)
    for comparison in comparisons:
        trace = comparison.trial.run.trace
        for index, op in enumerate(trace.ops):
            if op.name in names and _look(trace, index) in uses:
                part = comparison.part_of_op(index)
                if part.unit in comparison.choice:
                    _need(held, comparison.choice[part.unit], part.place)
    return held


def _need(held: Held, choice: int, moment: int) -> None:
    held.since[choice] = min(held.since.get(choice, FOREVER), moment)
    if choice != NOBODY:
        held.until[choice] = FOREVER
