"""How each buffer of a trace grows, from the trace and a few others of the same run at other sizes.

The traces are laid side by side, buffer by buffer. A law is exact at every one of them and has fewer coefficients than
there are traces; where none does that, the buffer is irregular, with the reason: scratch that depends on the GPU's
thread blocks, a step that runs other ops at one of the sizes.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from memgraph.analyze.attribution import Consumer, grouped
from memgraph.analyze.polynomial import Point, Polynomial, Term, constant, solve
from memgraph.trace import Buffer, Role, Trace

SYMBOLS = {"batch": "B", "seq": "S"}
"""Settings that a law may be in, and their symbols. Others keep their names."""


class Law(NamedTuple):
    """How bytes grow."""

    text: str
    """`B·S·49153·4`; with the reason in words where there is no law."""
    formula: Polynomial | None
    """None: irregular."""

    @property
    def degree(self) -> str:
        """Its fastest growing term without the number: `B·S²`, `constant`, `irregular`."""
        return degree(self.formula)


class Growth(NamedTuple):
    """Bytes of a moment that grow alike."""

    degree: str
    bytes: int
    buffers: int
    law: Law
    """Of their sum."""
    example: Consumer
    """The largest of them."""


def laws_for(trace: Trace, others: Sequence[Trace]) -> dict[Consumer, Law]:
    """The law of every consumer at the trace's peak.

    Args:
        others: the same run at other sizes; those that run other ops are left out, and two at least must be left.

    Returns:
        As `consumers(trace)` orders them.
    """
    laws = _Laws(trace, others)
    return {row: laws.of(members) for row, members in grouped(trace)}


def growth(trace: Trace, others: Sequence[Trace]) -> tuple[Growth, ...]:
    """The trace's peak by degree, what grows fastest first."""
    laws = _Laws(trace, others)
    groups: defaultdict[str, list[tuple[Consumer, tuple[int, ...]]]] = defaultdict(list)
    for row, members in grouped(trace):
        groups[laws.of(members).degree].append((row, members))
    rows = [
        Growth(
            name, sum(row.bytes for row, _ in group), sum(row.count for row, _ in group),
            laws.sum_of([index for _, members in group for index in members]), group[0][0],
        )
        for name, group in groups.items()
    ]  # fmt: skip
    return tuple(sorted(rows, key=lambda row: (-_speed(row.law.formula), -row.bytes)))


def total(trace: Trace, others: Sequence[Trace]) -> Law:
    """The law of the requested peak: of what is alive at this trace's peak. It holds while the peak stays there."""
    return _Laws(trace, others).sum_of(trace.live_at(trace.peak.event))


def points_of(traces: Sequence[Trace]) -> list[Point]:
    """Where each was run: the numbers among the settings that differ between them, by symbol.

    A setting that always equals one before it (`lm_max_length` is `seq`) is not a size of its own.
    """
    columns: dict[tuple[int, ...], str] = {}
    for name in traces[0].settings:
        values = tuple(trace.settings.get(name) for trace in traces)
        if all(isinstance(v, int) and not isinstance(v, bool) for v in values) and len(set(values)) > 1:
            columns.setdefault(values, SYMBOLS.get(name, name))  # type: ignore[arg-type]
    return [{symbol: values[place] for values, symbol in columns.items()} for place in range(len(traces))]


def degree(formula: Polynomial | None) -> str:
    """See `Law.degree`."""
    if formula is None:
        return "irregular"
    if formula.constant:
        return "constant"
    powers = max((_plain(term) for term in formula.terms), key=lambda p: (sum(p.values()), sorted(p)))
    return "·".join(f"{symbol}{_power(power)}" for symbol, power in sorted(powers.items()))


def aligned(traces: Sequence[Trace]) -> list[tuple[int, ...]]:
    """Indices of the buffers that correspond, one in each trace.

    The traces must run the same ops. An op's outputs correspond in order; so do its temporaries, if they are as many.
    """
    first, *others = (_by_op(trace) for trace in traces)
    rows: list[tuple[int, ...]] = []
    for key, members in first.items():
        counterparts = [table.get(key, ()) for table in others]
        if all(len(found) == len(members) for found in counterparts):
            rows += zip(members, *counterparts, strict=True)
    return rows


def same_ops(one: Trace, other: Trace) -> bool:
    """Whether two traces run the same ops in the same modules."""
    return len(one.ops) == len(other.ops) and all(
        a.name == b.name and a.module == b.module for a, b in zip(one.ops, other.ops, strict=True)
    )


class _Laws:
    """The laws of one trace's buffers, found when asked."""

    def __init__(self, trace: Trace, others: Sequence[Trace]) -> None:
        alike = [other for other in others if same_ops(trace, other)]
        self.traces = [trace, *alike]
        self.points = points_of(self.traces) if len(alike) >= 2 else []
        self.rows = {row[0]: self._buffers(row) for row in aligned(self.traces)} if self.points else {}
        self._left_out = len(others) - len(alike)

    def _buffers(self, row: tuple[int, ...]) -> list[Buffer]:
        return [trace.buffers[index] for trace, index in zip(self.traces, row, strict=True)]

    def of(self, members: Sequence[int]) -> Law:
        """Of buffers that look alike: their number times one of them, if all grow alike."""
        formulas = {index: self.formula(index) for index in members}
        first = formulas[members[0]]
        if any(formula is None for formula in formulas.values()):
            return self._irregular(next(index for index in members if formulas[index] is None))
        if len(set(formulas.values())) > 1 or first is None:
            return self.sum_of(members)
        count = f"{len(members)} x " if len(members) > 1 else ""
        return Law(f"{count}{self._product(members[0], first)}", first.times(len(members)))

    def sum_of(self, members: Iterable[int]) -> Law:
        """Of any buffers together."""
        counts = Counter(self.formula(index) for index in members)
        irregular = counts.pop(None, 0)
        whole = sum((f.times(n) for f, n in counts.items() if f is not None), constant(0))
        if irregular:
            return Law(f"{whole} + {irregular} irregular buffers", None)
        return Law(str(whole), whole)

    def formula(self, index: int) -> Polynomial | None:
        """Of one buffer; None if it has none."""
        row = self.rows.get(index)
        return solve([buffer.size for buffer in row], self.points) if row is not None else None

    def _product(self, index: int, formula: Polynomial) -> str:
        """The dimensions multiplied, sizes first: `B·S·49153·4`; the formula itself if they do not give the bytes."""
        row = self.rows[index]
        dims = [solve(sizes, self.points) for sizes in zip(*(buffer.shape for buffer in row), strict=False)]
        numel = math.prod(row[0].shape)
        if not dims or None in dims or not numel or row[0].size % numel or len({len(b.shape) for b in row}) > 1:
            return str(formula)
        item = constant(row[0].size // numel)
        if any(buffer.size != math.prod(buffer.shape) * (row[0].size // numel) for buffer in row):
            return str(formula)
        return product_text([*(dim for dim in dims if dim is not None), item])

    def _irregular(self, index: int) -> Law:
        if not self.points:
            why = "the other sizes run other ops" if self._left_out else "no other sizes to compare"
            return Law(f"irregular: {why}", None)
        if self.traces[0].buffers[index].role is Role.TEMPORARY:
            return Law("irregular: scratch, which depends on the GPU's thread blocks", None)
        return Law("irregular: no formula meets all sizes", None)


def product_text(factors: Sequence[Polynomial]) -> str:
    """Factors as a product, symbols first, equal ones as a power: `B·S²·9·4`."""
    powers: Counter[tuple[str, int]] = Counter()
    sums, numbers = [], []
    for factor in factors:
        if len(factor.terms) != 1:
            sums.append(f"({factor})")
            continue
        (term,) = factor.terms
        for part in term.factors:
            powers[str(part._replace(power=1)), 0] += part.power
        if term.coefficient != 1:
            numbers.append(str(Polynomial((Term(term.coefficient),))))
    names = [f"{name}{_power(power)}" for (name, _), power in sorted(powers.items())]
    return "·".join([*names, *sums, *numbers]) or "1"


def _by_op(trace: Trace) -> dict[tuple[int, bool], list[int]]:
    groups: defaultdict[tuple[int, bool], list[int]] = defaultdict(list)
    for index, buffer in enumerate(trace.buffers):
        groups[buffer.op, buffer.role is Role.TEMPORARY].append(index)
    return groups


def _speed(formula: Polynomial | None) -> int:
    """Constants last but for what is irregular."""
    return -1 if formula is None else max((sum(_plain(term).values()) for term in formula.terms), default=0)


def _plain(term: Term) -> Mapping[str, int]:
    """Powers by symbol, rounding up left aside."""
    powers: Counter[str] = Counter()
    for factor in term.factors:
        powers[factor.symbol] += factor.power
    return powers


def _power(power: int) -> str:
    return {1: "", 2: "²", 3: "³"}.get(power, f"^{power}")
