"""The cheapest choice that stays within a budget, or the one that needs least memory, to the optimum.

Candidates are taken in the order of the forward. A label is a choice for those so far: its cost, and what it does to
each moment that is still open. Of two labels, one that costs no less and needs no less anywhere is dropped; so is one
that no completion can bring below the best choice known, by the Lagrangian bound of the linear relaxation (HiGHS,
scipy). Blocks are alike, so few labels differ: a general solver for integer programs, `plan/milp.py`, agrees wherever
it ends, and takes seconds to hours where many plans cost nearly the same.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from memgraph.plan.labels import Labels, Trail, joined, some, undominated, with_option
from memgraph.plan.problem import Problem
from memgraph.plan.sections import LOSS

if TYPE_CHECKING:
    from numpy import ndarray

Choice = tuple[int, ...]
"""Options by their index, in order."""

_BEAM = 40
"""Labels a candidate that a first, quick look for a good choice goes on with."""
_WINDOW = 2
"""Above the bound of the linear relaxation, in parts of a step: as far as the best choice is looked for at first, then
twice as far."""
_EPSILON = 1e-6
"""Of a cost's part: what rounding may do to a bound."""


def cheapest(problem: Problem, budget: int) -> Choice | None:
    """The choice of least cost whose peak is at most `budget` bytes; None if there is none."""
    return Solver(problem).cheapest(budget)


def least_memory(problem: Problem) -> Choice:
    """The cheapest of the choices with the lowest peak."""
    return Solver(problem).least_memory()


class Solver:
    """Solves one problem for several budgets."""

    def __init__(self, problem: Problem) -> None:
        import numpy as np

        self.problem = problem
        self._cost = np.array([option.cost for option in problem.options], dtype=np.int64)
        self._effects, self._once, self._base = _matrices(problem)
        self._told_apart: dict[int, ndarray[Any, Any]] = {}

    def told_apart(self, place: int) -> ndarray[Any, Any]:
        """The moments that options from this candidate on still change, without those that the ones before it change
        alike: all forwards are one, and all backwards."""
        import numpy as np

        if place not in self._told_apart:
            order = {name: number for number, name in enumerate(n for n in self.problem.candidates if n != LOSS)}
            spans = [[order.get(name, -1) for name in option.covers] for option in self.problem.options]
            later = [number for number, span in enumerate(spans) if span[0] >= place]
            before = [number for number, span in enumerate(spans) if 0 <= span[-1] < place]
            still = np.flatnonzero(self._effects[later].any(axis=0))
            changes = np.vstack([np.zeros(len(still), dtype=np.int64), self._effects[before][:, still]])
            self._told_apart[place] = still[np.unique(changes, axis=1, return_index=True)[1]]
        return self._told_apart[place]

    def cheapest(self, budget: int) -> Choice | None:
        """See `cheapest`."""
        return self._cheapest(budget, self._cost)

    def least_memory(self) -> Choice:
        """See `least_memory`."""
        best: Choice = ()
        low, high = max(0, self._floor()), self.problem.peak(())
        while low < high:
            middle = (low + high) // 2
            found = self._cheapest(middle, self._cost * 0)
            low, high, best = (middle + 1, high, best) if found is None else (low, self.problem.peak(found), found)
        return self.cheapest(high) or best

    def _floor(self) -> int:
        """A peak that no choice gets below: what no option changes."""
        fixed = ~self._effects.any(axis=0)
        return int(self._base[fixed].max(initial=0))

    def _cheapest(self, budget: int, cost: ndarray[Any, Any]) -> Choice | None:
        best: Choice | None = None
        parts = [_Part(self, cost, budget, loss, onces) for loss, onces in self._branches()]
        for part in sorted(parts, key=lambda part: part.bound):
            top = None if best is None else int(cost[list(best)].sum())
            found = part.solve(top)
            best = found if found is not None else best
        return best

    def _branches(self) -> list[tuple[Choice, tuple[int, ...]]]:
        """What is decided before the candidates are gone through: how the loss is computed, and which of the workspaces
        that some options ask for are there. For these reach every moment of the run."""
        losses: list[Choice] = [()]
        losses += [(n,) for n, option in enumerate(self.problem.options) if option.covers == (LOSS,)]
        onces = range(len(self.problem.onces))
        sets = [some for size in range(len(onces) + 1) for some in itertools.combinations(onces, size)]
        return list(itertools.product(losses, sets))


def _matrices(problem: Problem) -> tuple[ndarray[Any, Any], ndarray[Any, Any], ndarray[Any, Any]]:
    """Bytes: [options, moments], [workspaces, moments], [moments]; without the moments that others imply."""
    import numpy as np

    effects = np.zeros((len(problem.options), len(problem.moments)), dtype=np.int64)
    once = np.zeros((len(problem.onces), len(problem.moments)), dtype=np.int64)
    for place, moment in enumerate(problem.moments):
        for option, size in moment.effects:
            effects[option, place] = size
        for number in moment.onces:
            once[number, place] = problem.onces[number].size
    base = np.array([moment.base for moment in problem.moments], dtype=np.int64)
    keep = _not_implied(np.vstack([effects, once, base[None]]))
    return effects[:, keep], once[:, keep], base[keep]


def _not_implied(columns: ndarray[Any, Any]) -> list[int]:
    """Moments that need more than any other in some choice: the first of two steps needs nothing that the second does
    not."""
    kept: list[int] = []
    for place in (-columns.sum(axis=0)).argsort(kind="stable"):
        if not any((columns[:, other] >= columns[:, place]).all() for other in kept):
            kept.append(int(place))
    return sorted(kept)


class _Part:
    """A budget's problem with the loss and the workspaces decided."""

    def __init__(
        self, solver: Solver, cost: ndarray[Any, Any], budget: int, loss: Choice, onces: tuple[int, ...]
    ) -> None:
        problem = solver.problem
        self.told_apart = solver.told_apart
        self.loss = loss
        self.names = [name for name in problem.candidates if name != LOSS]
        self.effects, self.cost = solver._effects, cost
        self.start = solver._base - budget + solver._once[list(onces)].sum(axis=0)
        self.start = self.start + sum(solver._effects[number] for number in loss)
        self.first_cost = int(sum(cost[number] for number in loss))
        barred = {n for place, once in enumerate(problem.onces) if place not in onces for n in once.options}
        self.usable = not barred & set(loss)
        self.by_first = _by_first(problem, self.names, barred)
        self.least = self._least_needs()
        self.prices = self._prices()
        self.remaining = self._remaining()
        self.highest = int(cost.sum())
        self.bound = self.first_cost + float(self.prices @ self.start) + self.remaining[0]

    def _least_needs(self) -> ndarray[Any, Any]:
        """[candidates + 1, moments]: the most that options from each candidate on can take away, moment by moment;
        nothing of a moment that is no longer open."""
        import numpy as np

        least = np.zeros((len(self.names) + 1, len(self.start)), dtype=np.int64)
        for place in reversed(range(len(self.names))):
            least[place] = least[place + 1]
            for number, length in self.by_first[place]:
                least[place] = np.minimum(least[place], self.effects[number] + least[place + length])
        return least

    def _prices(self) -> ndarray[Any, Any]:
        """What a byte costs at each moment: the multipliers of the linear relaxation; any that are not negative give a
        bound."""
        import numpy as np
        from scipy.optimize import linprog
        from scipy.sparse import csr_array

        numbers = [number for options in self.by_first for number, _ in options]
        if not numbers or not self.usable or (self.start <= 0).all():
            return np.zeros(len(self.start))
        scale = 2.0**20
        covers = np.zeros((len(self.names), len(numbers)))
        column = 0
        for place, options in enumerate(self.by_first):
            for _, length in options:
                covers[place : place + length, column] = 1
                column += 1
        rows = csr_array(np.vstack([self.effects[numbers].T / scale, covers]))
        tops = np.concatenate([-self.start / scale, np.ones(len(self.names))])
        result = linprog(self.cost[numbers], A_ub=rows, b_ub=tops, bounds=(0, 1), method="highs")
        if result.status != 0:
            return np.zeros(len(self.start))
        prices: ndarray[Any, Any] = np.clip(-result.ineqlin.marginals[: len(self.start)], 0, None) / scale
        return prices

    def _remaining(self) -> list[float]:
        """From each candidate on, the least of cost and priced bytes."""
        best = [0.0] * (len(self.names) + 1)
        for place in reversed(range(len(self.names))):
            ways = [best[place + 1]]
            for number, length in self.by_first[place]:
                ways.append(float(self.cost[number] + self.prices @ self.effects[number]) + best[place + length])
            best[place] = min(ways)
        return best

    def solve(self, top: int | None) -> Choice | None:
        """The cheapest choice, or None if none is below `top`."""
        if not self.usable or (top is not None and self.bound > top - 1 + _EPSILON):
            return None
        best = self._run(top, _BEAM)
        better = top if best is None else int(self.cost[list(best)].sum())
        within, limit = _WINDOW, -1
        while limit != better and (better is None or self.bound <= better - 1 + _EPSILON):
            limit = int(self.bound) + within if better is None else min(better, int(self.bound) + within)
            found = self._run(limit, None)
            if found is not None or within > self.highest:
                return found if found is not None else best
            within *= 2
        return best

    def _run(self, top: int | None, beam: int | None) -> Choice | None:
        """Go through the candidates, with all labels or with the most promising; only what costs less than `top`."""
        import numpy as np

        trail = Trail()
        queue: list[list[Labels]] = [[] for _ in range(len(self.names) + 1)]
        nothing = np.array([-1])
        queue[0] = [Labels(np.array([self.first_cost]), self.start[None, :], nothing, nothing)]
        for place in range(len(self.names)):
            labels = self._kept(joined(queue[place]), place, top, beam)
            queue[place] = []
            if labels is None:
                continue
            labels = labels._replace(before=trail.keep(labels), option=np.full(len(labels.cost), -1))
            queue[place + 1].append(labels)
            for number, length in self.by_first[place]:
                queue[place + length].append(with_option(labels, number, self.cost[number], self.effects[number]))
        return self._best(joined(queue[-1]), top, trail)

    def _best(self, labels: Labels | None, top: int | None, trail: Trail) -> Choice | None:
        import numpy as np

        if labels is None:
            return None
        good = np.flatnonzero((labels.needs <= 0).all(axis=1) & (labels.cost < (np.inf if top is None else top)))
        if not len(good):
            return None
        (number,) = trail.keep(some(labels, good[[labels.cost[good].argmin()]]))
        return tuple(sorted([*self.loss, *trail.choice(int(number))]))

    def _kept(self, labels: Labels | None, place: int, top: int | None, beam: int | None) -> Labels | None:
        """Without those that cannot fit, cannot be the best, or are no better than another."""
        import numpy as np

        if labels is None:
            return None
        bound = labels.cost + labels.needs @ self.prices + self.remaining[place]
        highest = np.inf if top is None else top - 1 + _EPSILON
        possible: Any = (labels.needs + self.least[place] <= 0).all(axis=1) & (bound <= highest)
        places = np.flatnonzero(possible)
        labels, bound = some(labels, places), bound[places]
        if not len(bound):
            return None
        labels = some(labels, order := undominated(labels, self.told_apart(place)))
        if beam is not None and len(order) > beam:
            labels = some(labels, np.argsort(bound[order], kind="stable")[:beam])
        return labels


def _by_first(problem: Problem, names: Sequence[str], barred: set[int]) -> list[list[tuple[int, int]]]:
    """By the first candidate that they cover: options, and how many candidates they cover."""
    place = {name: number for number, name in enumerate(names)}
    by_first: list[list[tuple[int, int]]] = [[] for _ in names]
    for number, option in enumerate(problem.options):
        if option.covers != (LOSS,) and number not in barred:
            by_first[place[option.covers[0]]].append((number, len(option.covers)))
    return by_first
