"""By what factor bytes changed between two runs, and which of the sizes that changed explains it."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from fractions import Fraction
from typing import NamedTuple

from memgraph.analyze.laws import SYMBOLS, product_text
from memgraph.analyze.polynomial import Factor, Monomial, Polynomial, Term, constant, monomial_at
from memgraph.trace import Trace


class Size(NamedTuple):
    """A size of the run on both sides."""

    before: int
    after: int


Factors = Mapping[str, Size]
"""The sizes that changed, by symbol."""


def changed_sizes(before: Trace, after: Trace) -> dict[str, Size]:
    """The sizes of the run that changed, by symbol."""
    sizes = {}
    for name, symbol in SYMBOLS.items():
        one, other = before.settings.get(name), after.settings.get(name)
        if isinstance(one, int) and isinstance(other, int) and one != other:
            sizes[symbol] = Size(one, other)
    return sizes


def law_between(before: int, after: int, sizes: Factors) -> str:
    """`as S` where the bytes changed by exactly the factor that a power of the changed size did; `new`, `gone`; empty
    where they did not change, or by another factor."""
    if before == after:
        return ""
    if not before or not after:
        return "gone" if before else "new"
    for monomial in _monomials(sizes):
        if monomial and monomial_at(monomial, _at(sizes, 0)) * after == monomial_at(monomial, _at(sizes, 1)) * before:
            return f"as {'·'.join(map(str, monomial))}"
    return ""


def _monomials(sizes: Factors) -> list[Monomial]:
    """Powers of the sizes that changed, up to the square of each."""
    choices = [[(), *((Factor(symbol, power),) for power in (1, 2))] for symbol in sizes]
    return [tuple(factor for part in parts for factor in part) for parts in itertools.product(*choices)]


def _at(sizes: Factors, side: int) -> dict[str, int]:
    return {symbol: size[side] for symbol, size in sizes.items()}


def formula_between(before: Sequence[int], after: Sequence[int], size: int, sizes: Factors) -> str:
    """The dimensions of a tensor multiplied, those that changed by their sizes; empty if these do not explain them.

    Args:
        size: its bytes before.
    """
    dims = [_dimension(a, b, sizes) for a, b in zip(before, after, strict=False)]
    item, rest = divmod(size, math.prod(before) or 1)
    if rest or len(before) != len(after) or None in dims:
        return ""
    return product_text([*(dim for dim in dims if dim is not None), constant(item)])


def _dimension(before: int, after: int, sizes: Factors) -> Polynomial | None:
    if before == after:
        return constant(before)
    for monomial in _monomials(sizes):
        coefficient = Fraction(before, monomial_at(monomial, _at(sizes, 0)))
        if coefficient * monomial_at(monomial, _at(sizes, 1)) == after:
            return Polynomial((Term(coefficient, monomial),))
    return None
