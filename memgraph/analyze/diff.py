"""Why two runs need different memory: the change of the requested peak, split so that the parts add up to it exactly.

Each split (tensors, places, modules, phases, categories) sorts what is alive at either peak under names that both runs
share, and subtracts. The peaks may fall at different moments; then the parts say what each moment holds.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Hashable, Iterable, Mapping
from typing import Any, NamedTuple

from memgraph.analyze.attribution import Consumer, grouped, starred
from memgraph.analyze.changes import Change, changes
from memgraph.analyze.factors import Factors, changed_sizes, formula_between, law_between
from memgraph.analyze.laws import aligned, same_ops
from memgraph.trace import Buffer, Category, Op, Peak, Role, Trace

_NAMED = (Category.PARAMETER, Category.BUFFER, Category.GRADIENT, Category.OPTIMIZER, Category.INPUT)
_DEPTH = 3
"""Components of a module's path: `decoder.blocks.*`."""
_NO_OP = Op("", -1)


class Part(NamedTuple):
    """One line of a split. Bytes at the two peaks."""

    name: str
    before: int
    after: int
    count_before: int
    count_after: int
    law: str
    """`as S`: by exactly the factor by which that size changed; `new`, `gone`, `bfloat16 -> float32`; or empty."""
    formula: str = ""
    """What gives one tensor's bytes on both sides, where all have one shape: `S·8·1536·2`."""

    @property
    def change(self) -> int:
        """Bytes more, or less."""
        return self.after - self.before


class Difference(NamedTuple):
    """Two runs compared. See `explain` in `memgraph.analyze.cause` for the same in words."""

    before: Trace
    after: Trace
    settings: tuple[Change, ...]
    same_ops: bool
    tensors: tuple[Part, ...]
    places: tuple[Part, ...]
    """By category for what every model has (parameters, gradients, …), else by module, else by line of code."""
    modules: tuple[Part, ...]
    phases: tuple[Part, ...]
    """By the phase that allocated it."""
    categories: tuple[Part, ...]
    laws: tuple[Part, ...]
    """By how each tensor's own bytes changed, where both runs have it: `as S`, `as S²`, `constant`."""

    @property
    def peaks(self) -> tuple[Peak, Peak]:
        """Of the two runs."""
        return self.before.peak, self.after.peak

    @property
    def change(self) -> int:
        """Bytes more at the requested peak, or less."""
        return self.after.peak.requested - self.before.peak.requested


class _Held(NamedTuple):
    """A buffer alive at its run's peak."""

    buffer: Buffer
    op: Op
    phase: str
    consumer: Consumer
    law: str
    """Of this buffer against its counterpart in the other run; empty where that is not known."""


_Sides = tuple[list[_Held], list[_Held]]


def difference(before: Trace, after: Trace) -> Difference:
    """Compare two runs."""
    sizes, alike = changed_sizes(before, after), same_ops(before, after)
    laws = _laws(before, after, sizes)
    sides = _held(before, laws[0]), _held(after, laws[1])
    split = _splitter(sides, sizes)
    return Difference(
        before=before, after=after, settings=changes(before, after), same_ops=alike,
        tensors=_by_tensor(sides, sizes) if before.ops and after.ops else _by_bytes(sides),
        places=_with_ops(split(_place), sides), modules=split(_module),
        phases=split(lambda held: held.phase or "outside any phase"),
        categories=split(lambda held: str(held.buffer.category)), laws=split(lambda held: held.law or "other"),
    )  # fmt: skip


# What is alive.


def _laws(before: Trace, after: Trace, sizes: Factors) -> tuple[dict[int, str], dict[int, str]]:
    """How each buffer differs from its counterpart, by index on either side; empty if the two run different ops."""
    if not before.ops or not same_ops(before, after):
        return {}, {}
    pairs = [
        (one, other, before.buffers[one].size, after.buffers[other].size) for one, other in aligned([before, after])
    ]
    named = {
        (a, b): "constant" if a == b else law_between(a, b, sizes) or "irregular"
        for a, b in {pair[2:] for pair in pairs}
    }  # a run has ten thousand buffers of a hundred sizes
    return {one: named[a, b] for one, _, a, b in pairs}, {other: named[a, b] for _, other, a, b in pairs}


def _held(trace: Trace, laws: Mapping[int, str]) -> list[_Held]:
    """In order of birth."""
    rows = {}
    for consumer, members in grouped(trace):
        for index in members:
            buffer = trace.buffers[index]
            op = trace.ops[buffer.op] if buffer.op >= 0 else _NO_OP
            phase = trace.phase_at(trace.spans[0][index]).name
            rows[index] = _Held(buffer, op, phase, consumer, laws.get(index, ""))
    return [rows[index] for index in sorted(rows)]


def _place(held: _Held) -> str:
    if held.buffer.category in _NAMED:
        return str(held.buffer.category)
    if held.buffer.role is Role.LIBRARY:
        return "library workspaces"
    if held.phase == "optimizer":
        return "inside the optimizer step"
    return _shortened(held.op.module) or held.op.source or _op_name(held)


def _module(held: _Held) -> str:
    named = held.buffer.name.rpartition(" of ")[2].rpartition(".")[0] if held.buffer.category in _NAMED else ""
    return _shortened(held.op.module or named) or "outside any module"


def _shortened(module: str) -> str:
    return ".".join(starred(module).split(".")[:_DEPTH])


def _op_name(held: _Held) -> str:
    return held.op.name.removeprefix("aten.").rpartition(".")[0] or "outside any op"


def _with_ops(parts: tuple[Part, ...], sides: _Sides) -> tuple[Part, ...]:
    """Lines of code outside any module with the ops that made most of it: `train.py:91 (nll_loss, _log_softmax)`."""
    made: defaultdict[str, Counter[str]] = defaultdict(Counter)
    for row in (*sides[0], *sides[1]):
        if row.op.source:
            made[row.op.source][_op_name(row)] += row.buffer.size
    return tuple(
        part._replace(name=f"{part.name} ({', '.join(name for name, _ in made[part.name].most_common(2))})")
        if part.name in made else part
        for part in parts
    )  # fmt: skip


# Splits.


class _Sum:
    """Bytes and buffers on both sides of one name."""

    def __init__(self) -> None:
        self.before = self.after = self.count_before = self.count_after = 0

    def add(self, side: int, size: int) -> None:
        if side == 0:
            self.before, self.count_before = self.before + size, self.count_before + 1
        else:
            self.after, self.count_after = self.after + size, self.count_after + 1

    def part(self, name: str, law: str, formula: str = "") -> Part:
        return Part(name, self.before, self.after, self.count_before, self.count_after, law, formula)


def _splitter(sides: _Sides, sizes: Factors) -> Callable[[Callable[[_Held], str]], tuple[Part, ...]]:
    def split(name_of: Callable[[_Held], str]) -> tuple[Part, ...]:
        sums: defaultdict[str, _Sum] = defaultdict(_Sum)
        for side, rows in enumerate(sides):
            for row in rows:
                sums[name_of(row)].add(side, row.buffer.size)
        return _sorted(t.part(name, law_between(t.before, t.after, sizes)) for name, t in sums.items())

    return split


def _by_bytes(sides: _Sides) -> tuple[Part, ...]:
    """For a run that knows no ops: equal sizes cancel."""
    sums: defaultdict[int, _Sum] = defaultdict(_Sum)
    names: dict[int, Counter[str]] = defaultdict(Counter)
    for side, rows in enumerate(sides):
        for row in rows:
            sums[row.buffer.size].add(side, row.buffer.size)
            if row.op.name or row.buffer.name:
                names[row.buffer.size][row.consumer.provenance] += 1
    return _sorted(
        total.part(f"{size:,} bytes each" + (f", like {names[size].most_common(1)[0][0]}" if names[size] else ""), "")
        for size, total in sums.items()
    )


def _by_tensor(sides: _Sides, sizes: Factors) -> tuple[Part, ...]:
    """Tensors of one kind: the same op in the same module, or the same name. Lines of code are paired in their order,
    so that an edit above them makes no difference; where one side has more of them, they are taken together."""
    groups: defaultdict[Hashable, tuple[dict[Any, list[_Held]], dict[Any, list[_Held]]]] = defaultdict(lambda: ({}, {}))
    for side, rows in enumerate(sides):
        for row in rows:
            groups[_kind(row)][side].setdefault(_line(row), []).append(row)
    parts = []
    for before, after in groups.values():
        lines = [(before.get(line, []), after.get(line, [])) for line in dict.fromkeys((*before, *after))]
        if before.keys() != after.keys() and before and after:
            pairs = list(zip(before.values(), after.values(), strict=False))
            lines = pairs if len(before) == len(after) else [(_flat(before.values()), _flat(after.values()))]
        parts += [_tensor_part(one, other, sizes) for one, other in lines]
    return _sorted(parts)


def _kind(held: _Held) -> Hashable:
    buffer, op = held.buffer, held.op
    if buffer.name:
        return buffer.category, starred(buffer.name)
    return buffer.category, buffer.role, op.name, starred(op.module), op.forward >= 0


def _line(held: _Held) -> tuple[object, ...]:
    """Cast weights and cast activations come from one line; they have different dimensions, and grow differently."""
    return held.op.source, held.buffer.dtype, len(held.buffer.shape), held.law


def _flat(groups: Iterable[list[_Held]]) -> list[_Held]:
    return [row for group in groups for row in group]


def _tensor_part(before: list[_Held], after: list[_Held], sizes: Factors) -> Part:
    total = _Sum()
    for side, rows in enumerate((before, after)):
        for row in rows:
            total.add(side, row.buffer.size)
    dtypes = [sorted({row.buffer.dtype for row in rows}) for rows in (before, after)]
    law = law_between(total.before, total.after, sizes)
    if before and after and dtypes[0] != dtypes[1]:
        law = f"{'/'.join(dtypes[0])} -> {'/'.join(dtypes[1])}"
    elif before and before[0].law == "irregular":
        law = "irregular"
    formula = _formula(before, after, sizes) if law.startswith("as ") else ""
    return total.part((after or before)[0].consumer.provenance, law, formula)


def _sorted(parts: Iterable[Part]) -> tuple[Part, ...]:
    """The largest change first."""
    return tuple(sorted(parts, key=lambda part: (-abs(part.change), -part.after, part.name)))


def _formula(before: list[_Held], after: list[_Held], sizes: Factors) -> str:
    """Of one tensor; empty unless all look alike."""
    shapes = [{(row.buffer.shape, row.buffer.size) for row in rows} for rows in (before, after)]
    if len(before) != len(after) or any(len(found) != 1 for found in shapes):
        return ""
    (one, size), (other, _) = shapes[0].pop(), shapes[1].pop()
    return formula_between(one, other, size, sizes)
