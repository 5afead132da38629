"""An ATen call with formulas in place of sizes, so that a workspace rule can be asked what the op takes at other
sizes."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from memgraph.analyze.polynomial import Point, Polynomial, solve
from memgraph.gpu import workspace
from memgraph.gpu.call import Call, TensorMeta


class _Hole(NamedTuple):
    """Stands in a call's arguments for one of the numbers."""

    place: int


@dataclass(frozen=True, eq=False)
class Template:
    """One call at any size."""

    skeleton: Call
    """With a `_Hole` for each whole number."""
    numbers: tuple[Polynomial, ...]

    @functools.cached_property
    def ruled(self) -> bool:
        """Whether a rule says what such a call allocates inside; if not, it is its outputs and nothing else."""
        return workspace.rule_for(self.skeleton.op, self.skeleton.overload) is not None

    def filled(self, values: Sequence[int]) -> Call:
        """The call with these numbers."""
        call, values = self.skeleton, tuple(values)
        args, kwargs, outputs = (_fill(part, values) for part in (call.args, call.kwargs, call.outputs))
        return Call(call.op, call.overload, args, kwargs, outputs)


def fit_template(calls: Sequence[Call], points: Sequence[Point]) -> Template | None:
    """The template of one op's calls at several points; None if something besides sizes differs, or a size follows no
    formula."""
    skeletons, numbers = zip(*map(_emptied, calls), strict=True)
    if any(skeleton != skeletons[0] for skeleton in skeletons[1:]):
        return None
    formulas = [solve(values, points) for values in zip(*numbers, strict=True)]
    known = tuple(formula for formula in formulas if formula is not None)
    return Template(skeletons[0], known) if len(known) == len(formulas) else None


def _emptied(call: Call) -> tuple[Call, list[int]]:
    """A call without its numbers, and the numbers."""
    numbers: list[int] = []
    args, kwargs, outputs = (_empty(part, numbers) for part in (call.args, call.kwargs, call.outputs))
    return Call(call.op, call.overload, args, kwargs, outputs), numbers


def _empty(value: Any, numbers: list[int]) -> Any:
    if isinstance(value, bool):
        return value
    if isinstance(value, int):
        numbers.append(value)
        return _Hole(len(numbers) - 1)
    if isinstance(value, TensorMeta):
        return TensorMeta(*(_empty(part, numbers) for part in value))
    if isinstance(value, (tuple, list)):
        return tuple([_empty(item, numbers) for item in value])
    if isinstance(value, Mapping):
        return {name: _empty(item, numbers) for name, item in value.items()}
    return value


def _fill(value: Any, values: Sequence[int]) -> Any:
    if isinstance(value, _Hole):
        return values[value.place]
    if isinstance(value, TensorMeta):
        return TensorMeta(*[_fill(item, values) for item in value])
    if isinstance(value, tuple):
        return tuple([_fill(item, values) for item in value])
    if isinstance(value, Mapping):
        return {name: _fill(item, values) for name, item in value.items()}
    return value
