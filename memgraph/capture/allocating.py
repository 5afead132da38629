"""What an op allocates, told to the ledger: its outputs, what it needs inside, what a library keeps."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from memgraph.capture.ledger import Ledger
from memgraph.capture.operators import CONVOLUTIONS, NOTHING, Inside, Kinds, Operator, cudnn_settings
from memgraph.capture.storages import Born, Storages
from memgraph.gpu.call import Call
from memgraph.trace import Role
from memgraph.virtual.ops.shapes import Recipe


class Allocating:
    """See the module's text.

    Args:
        ledger: where allocations go.
        operators: whose libraries keep buffers from their first use on.
        storages: told of what is born.
    """

    def __init__(self, ledger: Ledger, operators: Kinds, storages: Storages) -> None:
        self._ledger, self._libraries, self._storages = ledger, operators.libraries, storages
        self.ruled: dict[int, Call] = {}
        """The calls whose buffers a rule decides, by the op's number."""

    def op(
        self, operator: Operator, outputs: Any, args: Sequence[Any], kwargs: Mapping[str, Any], recipe: Recipe | None
    ) -> None:
        """An op has run."""
        born = self._born(operator, outputs, args, kwargs, recipe)
        inside: Inside | None = recipe.inside if recipe is not None else None
        if inside is None or not _holds(inside):
            inside = operator.inside(args, kwargs, [tensor for tensor, _, _ in born])
            if recipe is not None and (inside.call is None or "selected" not in inside.call.kwargs):
                _learn(operator, recipe, inside)
        if inside.call is not None:
            self.ruled[self._ledger.op] = inside.call
        self._storages.allocate(inside.steps, born)
        if inside.needs:
            for size in self._libraries.first_uses(inside.needs, self._ledger.current_stream()):
                self._ledger.allocate(size, Role.LIBRARY)

    def _born(
        self, operator: Operator, outputs: Any, args: Sequence[Any], kwargs: Mapping[str, Any], recipe: Recipe | None
    ) -> Sequence[Born]:
        if operator.resizes:
            return self._storages.changed(operator.targets(args, kwargs))
        if recipe is not None:
            return [] if operator.only_aliases else self._storages.made(recipe, outputs)
        return [] if operator.only_aliases and not _is_sparse(outputs) else self._storages.new(outputs)


def _learn(operator: Operator, recipe: Recipe, inside: Inside) -> None:
    """What such calls allocate is remembered."""
    plain = inside == NOTHING and not operator.resizes
    recipe.inside = NOTHING if inside == NOTHING else inside
    recipe.quiet = plain and not recipe.births
    if plain and not operator.only_aliases and recipe.container is None and recipe.births:
        recipe.sole = True


def _holds(inside: Inside) -> bool:
    """Whether such a call would be told the same now: what `torch.backends.cudnn` says may have changed."""
    call = inside.call
    return call is None or call.op not in CONVOLUTIONS or call.kwargs.items() >= cudnn_settings().items()


def _is_sparse(outputs: Any) -> bool:
    """Written to in place, a sparse tensor takes new storages."""
    return isinstance(outputs, Tensor) and outputs.layout is torch.sparse_coo
