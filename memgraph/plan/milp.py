"""The cheapest choice that stays within a budget, or the one that needs least memory: a mixed integer program, solved
by HiGHS (scipy) to the optimum, rounded, and checked again in whole bytes."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, NamedTuple

from memgraph.errors import MemgraphError
from memgraph.plan.problem import Problem

if TYPE_CHECKING:
    from numpy import ndarray

Choice = tuple[int, ...]
"""Options by their index, in order."""

_UNIT = 2**20
"""HiGHS takes a row for kept that is broken by 1e-6; in MiB that is a byte."""
_MARGIN = 4
"""Bytes by which a budget is tightened if rounding breaks it after all."""
_INFEASIBLE = 2
"""Status of scipy.optimize.milp."""


class _Matrix(NamedTuple):
    """Rows over the options and the workspaces, in MiB; and what is alike for all budgets."""

    rows: ndarray[Any, Any]
    base: ndarray[Any, Any]
    links: Any
    width: int


def cheapest(problem: Problem, budget: int) -> Choice | None:
    """The choice of least cost whose peak is at most `budget` bytes; None if there is none."""
    return Solver(problem).cheapest(budget)


def least_memory(problem: Problem) -> Choice:
    """The cheapest of the choices with the lowest peak."""
    return Solver(problem).least_memory()


class Solver:
    """Solves one problem for several budgets."""

    def __init__(self, problem: Problem) -> None:
        self.problem = problem
        self._matrix = _matrix(problem)

    def cheapest(self, budget: int) -> Choice | None:
        """See `cheapest`."""
        import numpy as np

        options = [option.cost for option in self.problem.options]
        bound = budget
        for _ in range(3):
            cost = np.array(options + [0] * len(self.problem.onces), dtype=float)
            choice = self._solve(cost, bound)
            if choice is None or self.problem.peak(choice) <= budget:
                return choice
            bound -= _MARGIN
        raise MemgraphError("the solver's answer is above the budget: this is a bug in memgraph")

    def least_memory(self) -> Choice:
        """See `least_memory`."""
        import numpy as np

        matrix = self._matrix
        rows = np.hstack([matrix.rows, -np.ones((len(matrix.rows), 1))])
        cost = np.zeros(rows.shape[1])
        cost[-1] = 1
        found = _milp(cost, rows, -matrix.base, matrix, free=1)
        assert found is not None  # everything kept is a choice
        choice = _rounded(found, len(self.problem.options))
        return self.cheapest(self.problem.peak(choice)) or choice

    def _solve(self, cost: ndarray[Any, Any], budget: int) -> Choice | None:
        import numpy as np

        matrix, room = self._matrix, budget / _UNIT - self._matrix.base
        binds = np.clip(matrix.rows, 0, None).sum(axis=1) > room
        if not len(cost):
            return () if (room >= 0).all() else None
        found = _milp(cost, matrix.rows[binds], room[binds], matrix)
        return None if found is None else _rounded(found, len(self.problem.options))


def _matrix(problem: Problem) -> _Matrix:
    import numpy as np

    options, onces = len(problem.options), len(problem.onces)
    rows = np.zeros((len(problem.moments), options + onces))
    for place, moment in enumerate(problem.moments):
        for option, size in moment.effects:
            rows[place, option] = size / _UNIT
        for once in moment.onces:
            rows[place, options + once] = problem.onces[once].size / _UNIT
    base = np.array([moment.base for moment in problem.moments], dtype=float) / _UNIT
    keep = _not_dominated(rows, base)
    return _Matrix(rows[keep], base[keep], _links(problem), options + onces)


def _not_dominated(rows: ndarray[Any, Any], base: ndarray[Any, Any]) -> ndarray[Any, Any]:
    """Rows that no other one implies, whatever is chosen: the first of two steps needs nothing that the second does
    not."""
    import numpy as np

    order = np.argsort(-(base + rows.sum(axis=1)), kind="stable")
    kept: list[int] = []
    for place in order:
        if not any(base[other] >= base[place] and (rows[other] >= rows[place]).all() for other in kept):
            kept.append(int(place))
    return np.array(sorted(kept))


def _links(problem: Problem) -> Any:
    """No candidate twice; a workspace is there if an option that asks for it is taken."""
    import numpy as np

    count = len(problem.options)
    rows, tops = [], []
    for name in problem.candidates:
        row = [float(name in option.covers) for option in problem.options] + [0.0] * len(problem.onces)
        rows.append(row)
        tops.append(1.0)
    for number, once in enumerate(problem.onces):
        for option in sorted(once.options):
            row = [0.0] * (count + len(problem.onces))
            row[option], row[count + number] = 1.0, -1.0
            rows.append(row)
            tops.append(0.0)
    return np.array(rows).reshape(len(rows), count + len(problem.onces)), np.array(tops)


def _milp(
    cost: ndarray[Any, Any], rows: ndarray[Any, Any], tops: ndarray[Any, Any], matrix: _Matrix, free: int = 0
) -> ndarray[Any, Any] | None:
    """The optimum, or None if nothing is within the bounds. `free` variables at the end are not bounded.

    Raises:
        MemgraphError: the solver gave up.
    """
    import numpy as np
    from scipy.optimize import Bounds, LinearConstraint, milp
    from scipy.sparse import csr_array

    links, ones = matrix.links
    every = np.vstack([rows, np.hstack([links, np.zeros((len(links), free))])])
    count = matrix.width
    with _nothing_on_stdout():
        result = milp(
            cost, integrality=np.array([1] * count + [0] * free),
            bounds=Bounds(np.zeros(count + free), np.array([1.0] * count + [np.inf] * free)),
            constraints=LinearConstraint(csr_array(every), ub=np.concatenate([tops, ones])), options={"mip_rel_gap": 0},
        )  # fmt: skip
    if result.status == _INFEASIBLE:
        return None
    if result.status != 0:
        raise MemgraphError(f"the solver gave up: {result.message}")
    found: ndarray[Any, Any] = result.x
    return found


def _rounded(found: ndarray[Any, Any], options: int) -> Choice:
    return tuple(number for number in range(options) if found[number] > 0.5)


@contextlib.contextmanager
def _nothing_on_stdout() -> Iterator[None]:
    """HiGHS (1.8 and later, as scipy has it) prints a line of its debugging at times, past Python and its settings."""
    sys.stdout.flush()
    kept = os.dup(1)
    nowhere = os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nowhere, 1)
        yield
    finally:
        os.dup2(kept, 1)
        os.close(kept)
        os.close(nowhere)
