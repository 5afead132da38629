"""The planning problem in plain whole numbers: what each choice saves, moment by moment, and what it costs.

The peak of a step is a maximum over time, not a sum: every moment is a row of its own, linear in the choices, because
what one block keeps alive does not depend on what the others do. Where it does (two blocks hold the same tensor, which
lives as long as either does) the row has a term for the tensor that counts once.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    import numpy as np

KEEP = "keep"
"""The choice of changing nothing."""


class Choice(NamedTuple):
    """One way to treat one unit, or several units as one region."""

    policy: str
    units: tuple[int, ...]
    """The units that it decides, by index."""
    cost: int
    """Time that it adds to a step, in picoseconds: whole numbers, so that equal costs are equal."""


class Moment(NamedTuple):
    """A stretch of the run, and the highest requested bytes in it."""

    label: str
    """For people: `step 2, backward of decoder.blocks.3`."""
    kind: str
    """`forward`, `backward`, `loss`, `optimizer`, …: what advice goes by."""
    base: int
    """Bytes with nothing changed."""
    terms: Mapping[int, int]
    """Bytes more, by choice."""
    shared: Mapping[int, int] = {}
    """Bytes more for each tensor of `Problem.shared` that is held."""


@dataclass(frozen=True)
class Problem:
    """Choose for every unit exactly one of the choices that decide it."""

    units: tuple[str, ...]
    choices: tuple[Choice, ...]
    moments: tuple[Moment, ...]
    step: int = 0
    """Time of a whole step with nothing changed, in picoseconds."""
    shared: tuple[tuple[int, ...], ...] = ()
    """Tensors that several choices hold: each lives if any of these choices is taken."""
    doubts: tuple[str, ...] = ()
    """Where the traces do not add up exactly; the plan's own trace decides."""

    @functools.cached_property
    def deciding(self) -> tuple[tuple[int, ...], ...]:
        """For each unit the choices that decide it."""
        found: list[list[int]] = [[] for _ in self.units]
        for index, choice in enumerate(self.choices):
            for unit in choice.units:
                found[unit].append(index)
        return tuple(map(tuple, found))

    @functools.cached_property
    def keep(self) -> tuple[int, ...]:
        """The choices that change nothing."""
        return tuple(index for index, choice in enumerate(self.choices) if choice.policy == KEEP)

    def complete(self, chosen: Sequence[int]) -> bool:
        """Whether every unit is decided exactly once."""
        decided = sorted(unit for index in chosen for unit in self.choices[index].units)
        return decided == list(range(len(self.units)))

    def cost(self, chosen: Sequence[int]) -> int:
        """Time that these choices add to a step, in picoseconds."""
        return sum(self.choices[index].cost for index in chosen)

    def peak(self, chosen: Sequence[int]) -> int:
        """The highest requested bytes of the run under these choices."""
        return int(self.heights(chosen).max())

    def binding(self, chosen: Sequence[int]) -> Moment:
        """The moment that sets the peak."""
        return self.moments[int(self.heights(chosen).argmax())]

    def heights(self, chosen: Sequence[int]) -> np.ndarray[Any, Any]:
        """Bytes at every moment under these choices, exactly."""
        base, terms, shared = self.matrix
        taken = set(chosen)
        heights = base + terms[:, list(chosen)].sum(axis=1)
        held = [index for index, holders in enumerate(self.shared) if taken.intersection(holders)]
        return heights + shared[:, held].sum(axis=1) if held else heights

    @functools.cached_property
    def matrix(self) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any], np.ndarray[Any, Any]]:
        """The moments as whole numbers: bases, bytes by choice, bytes by shared tensor."""
        import numpy as np

        base = np.array([moment.base for moment in self.moments], dtype=np.int64)
        terms = np.zeros((len(self.moments), len(self.choices)), dtype=np.int64)
        shared = np.zeros((len(self.moments), len(self.shared)), dtype=np.int64)
        for row, moment in enumerate(self.moments):
            for index, size in moment.terms.items():
                terms[row, index] = size
            for index, size in moment.shared.items():
                shared[row, index] = size
        return base, terms, shared
