"""How a number grows with sizes such as batch and sequence length: exact, found from a few points or not at all.

A formula is a sum of terms such as `393224·B·S`, its coefficients fractions, never floats. A symbol may stand rounded
up to a multiple, `⌈S⌉32`, as kernels pad. The formula with the fewest terms that meets every given point is taken;
one that has as many coefficients as there are points proves nothing and is not given.
"""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from fractions import Fraction
from typing import NamedTuple

Point = Mapping[str, int]
"""Sizes by symbol: `{"B": 8, "S": 512}`."""

PADDINGS = (8, 16, 32, 64, 128)
"""Multiples that a kernel may pad a length to."""
_MOST_TERMS = 3
_HIGHEST = {"B": 2, "S": 2}
"""Power of each symbol that is looked for: what pairs positions or samples with each other. Of any other (an image has
two sides, and attention pairs its patches) it is 4."""


class Factor(NamedTuple):
    """A symbol, rounded up to a multiple, to a power."""

    symbol: str
    power: int = 1
    multiple: int = 1

    def at(self, point: Point) -> int:
        """Its value."""
        return int((-(-point[self.symbol] // self.multiple) * self.multiple) ** self.power)

    def __str__(self) -> str:
        name = self.symbol if self.multiple == 1 else f"⌈{self.symbol}⌉{self.multiple}"
        return name if self.power == 1 else f"{name}{'²' if self.power == 2 else f'^{self.power}'}"


Monomial = tuple[Factor, ...]
_Column = tuple[Monomial, tuple[int, ...]]


class Term(NamedTuple):
    """A coefficient and what it is multiplied by; nothing for a constant."""

    coefficient: Fraction
    factors: Monomial = ()

    def at(self, point: Point) -> int | Fraction:
        """Its value."""
        coefficient = self.coefficient
        whole = coefficient.numerator if coefficient.denominator == 1 else coefficient  # fractions cost ten times that
        return whole * monomial_at(self.factors, point)


class Polynomial(NamedTuple):
    """A sum of terms."""

    terms: tuple[Term, ...]

    def at(self, point: Point) -> int:
        """The number at a point.

        Raises:
            ValueError: it is not a whole number there, so the formula does not hold.
        """
        value = sum(term.at(point) for term in self.terms)
        if value.denominator != 1:
            raise ValueError(f"{self} is not a whole number at {dict(point)}")
        return value.numerator

    @property
    def constant(self) -> bool:
        """Whether it is the same everywhere."""
        return all(not term.factors for term in self.terms)

    def degree(self, symbol: str) -> int:
        """Highest power of a symbol."""
        powers = (sum(f.power for f in term.factors if f.symbol == symbol) for term in self.terms)
        return max(powers, default=0)

    def __add__(self, other: object) -> Polynomial:  # type: ignore[override]  # not the concatenation of two tuples
        if not isinstance(other, Polynomial):
            return NotImplemented
        sums: dict[Monomial, Fraction] = {}
        for term in (*self.terms, *other.terms):
            sums[term.factors] = sums.get(term.factors, Fraction(0)) + term.coefficient
        return Polynomial(_ordered(Term(value, factors) for factors, value in sums.items() if value))

    def times(self, factor: int) -> Polynomial:
        """A multiple of it."""
        return Polynomial(tuple(Term(term.coefficient * factor, term.factors) for term in self.terms) if factor else ())

    def __str__(self) -> str:
        return " + ".join(map(_term_text, self.terms)).replace("+ -", "- ") or "0"


def constant(value: int) -> Polynomial:
    """A number that does not change."""
    return Polynomial((Term(Fraction(value)),) if value else ())


def monomial_at(factors: Monomial, point: Point) -> int:
    """The product of some factors."""
    return math.prod(factor.at(point) for factor in factors)


def solve(values: Sequence[int], points: Sequence[Point]) -> Polynomial | None:
    """The simplest formula through all points: fewest terms, then no rounding up, then the lowest degree.

    Args:
        values: the number at each point.
        points: at least two, with the same symbols.

    Returns:
        None if there is no formula of at most three terms that one point more than it has terms bears out, or if
        there are two that the points cannot tell apart.
    """
    if len(set(values)) == 1:
        return constant(values[0])
    frozen = tuple(tuple(sorted(point.items())) for point in points)
    return _solve(tuple(values), frozen)


@functools.lru_cache(maxsize=65536)
def _solve(values: tuple[int, ...], points: tuple[tuple[tuple[str, int], ...], ...]) -> Polynomial | None:
    plain, rounded = _columns(points)
    for count in range(1, min(_MOST_TERMS, len(points) - 1) + 1):
        found = list(itertools.islice(_sums(plain, count, values), 2))
        if len(found) == 2:
            return None  # the points cannot tell these apart: lengths that are all eight times the batch, say
        if found:
            return found[0]
        with_rounding = next(_sums(plain + rounded, count, values), None) if count < _MOST_TERMS else None
        if with_rounding is not None:
            return with_rounding
    return None


def _sums(columns: Sequence[_Column], count: int, values: Sequence[int]) -> Iterator[Polynomial]:
    """Every sum of so many terms that gives the values."""
    for chosen in itertools.combinations(columns, count):
        found = _coefficients([column for _, column in chosen], values)
        if found is not None and all(found):
            yield Polynomial(_ordered(Term(value, m) for value, (m, _) in zip(found, chosen, strict=True)))


@functools.lru_cache(maxsize=64)
def _columns(points: tuple[tuple[tuple[str, int], ...], ...]) -> tuple[list[_Column], list[_Column]]:
    """Each monomial with its values at the points, those without rounding apart, the simplest first; one that rounds
    and agrees with a simpler one at all points is left out."""
    where = [dict(point) for point in points]
    seen: dict[tuple[int, ...], Monomial] = {}
    for monomial in sorted(_monomials(sorted(where[0])), key=_complexity):
        seen.setdefault(tuple(monomial_at(monomial, point) for point in where), monomial)
    found = [(monomial, column) for column, monomial in seen.items()]
    return [c for c in found if _plain(c[0])], [c for c in found if not _plain(c[0])]


def _monomials(symbols: Sequence[str]) -> Iterator[Monomial]:
    for parts in itertools.product(*(_powers(symbol) for symbol in symbols)):
        yield tuple(itertools.chain.from_iterable(parts))


def _powers(symbol: str) -> list[Monomial]:
    plain: list[Monomial] = [(), *((Factor(symbol, power),) for power in range(1, _HIGHEST.get(symbol, 4) + 1))]
    padded: list[Monomial] = []
    for multiple in PADDINGS:
        rounded = Factor(symbol, 1, multiple)
        padded += [(rounded,), (rounded._replace(power=2),), (Factor(symbol), rounded)]
    return plain + padded


def _complexity(monomial: Monomial) -> tuple[int, int, int]:
    rounded = sum(factor.multiple > 1 for factor in monomial)
    return rounded, sum(factor.power for factor in monomial), sum(factor.multiple for factor in monomial)


def _plain(monomial: Monomial) -> bool:
    return all(factor.multiple == 1 for factor in monomial)


def _coefficients(columns: Sequence[Sequence[int]], values: Sequence[int]) -> list[Fraction] | None:
    """The combination of columns that gives the values at every point; None if there is none, or more than one.

    One and two columns are solved from the first points and tried at the rest, in whole numbers: nearly all fail."""
    if len(columns) == 1:
        (column,) = columns
        if any(v * column[0] != values[0] * c for v, c in zip(values, column, strict=True)):
            return None
        return [Fraction(values[0], column[0])]
    return _two(columns[0], columns[1], values) if len(columns) == 2 else _eliminate(columns, values)


def _two(first: Sequence[int], second: Sequence[int], values: Sequence[int]) -> list[Fraction] | None:
    determinant = first[0] * second[1] - first[1] * second[0]
    if determinant == 0:
        return None
    a = values[0] * second[1] - values[1] * second[0]
    b = first[0] * values[1] - first[1] * values[0]
    if any(a * x + b * y != determinant * v for x, y, v in zip(first[2:], second[2:], values[2:], strict=True)):
        return None
    return [Fraction(a, determinant), Fraction(b, determinant)]


def _eliminate(columns: Sequence[Sequence[int]], values: Sequence[int]) -> list[Fraction] | None:
    rows = [[Fraction(n) for n in (*row, value)] for *row, value in zip(*columns, values, strict=True)]
    width = len(columns)
    for place in range(width):
        pivot = next((row for row in range(place, len(rows)) if rows[row][place]), None)
        if pivot is None:
            return None
        rows[place], rows[pivot] = rows[pivot], rows[place]
        rows[place] = [number / rows[place][place] for number in rows[place]]
        for other in range(len(rows)):
            if other != place and rows[other][place]:
                scale = rows[other][place]
                rows[other] = [a - scale * b for a, b in zip(rows[other], rows[place], strict=True)]
    return None if any(row[width] for row in rows[width:]) else [row[width] for row in rows[:width]]


def _ordered(terms: Iterator[Term]) -> tuple[Term, ...]:
    """The fastest growing first."""
    return tuple(sorted(terms, key=lambda t: (-sum(f.power for f in t.factors), str(t.factors))))


def _term_text(term: Term) -> str:
    number = f"{term.coefficient.numerator}"
    names = [str(factor) for factor in term.factors]
    top = "·".join([*names, number] if number != "1" or not names else names)
    return top if term.coefficient.denominator == 1 else f"{top}/{term.coefficient.denominator}"
