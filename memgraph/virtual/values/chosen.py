"""What is known of choices: the index of a maximum, the places of the largest k, random integers.

Their bounds are certain. Beyond them, choices are supposed to be shared out evenly where a size depends on them, as a
router of experts is trained to: the choices go round, row by row, so of `rows` rows with `k` choices each, every one of
`n` gets `rows * k / n`, or where that does not divide, the first ones get one more. So masks `chosen == i` exclude each
other and share the rows.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch._ops import OpOverload

from memgraph.virtual.values import counted
from memgraph.virtual.values import known as values
from memgraph.virtual.values.partly import LIMIT

aten = torch.ops.aten
FEW = 1024
"""Choices among which a module's own maximum is taken to route, although there are fewer rows than choices."""
MAP = 2**21
"""Integers up to which their bounds are kept: a class for each pixel of eight pictures of 512 x 512, of which metrics
ask how many classes there are. They are followed through views and copies alone, from `partly.LIMIT` on."""

Bounds = Callable[[Sequence[Any], Mapping[str, Any], Tensor], tuple[int, int]]


def _argument(func: OpOverload, args: Sequence[Any], kwargs: Mapping[str, Any], name: str) -> Any:
    for place, argument in enumerate(func._schema.arguments):
        if argument.name == name:
            return args[place] if place < len(args) else kwargs.get(name, argument.default_value)
    return None


_ALONG_A_DIMENSION: dict[OpOverload, int] = {
    aten.argmax.default: 0, aten.argmin.default: 0, aten.topk.default: 1, aten.max.dim: 1, aten.min.dim: 1,
    aten.sort.default: 1, aten.sort.stable: 1, aten.argsort.default: 0, aten.argsort.stable: 0, aten.mode.default: 1,
    aten.median.dim: 1, aten.kthvalue.default: 1, aten.cummax.default: 1, aten.cummin.default: 1,
    aten.multinomial.default: 0,
}  # fmt: skip
"""Ops one of whose outputs are places along a dimension, and which output that is."""
_ROUTING = frozenset({aten.argmax.default, aten.argmin.default, aten.topk.default, aten.max.dim, aten.min.dim})
_RANDOM = {
    aten.randint.default: (None, "high"), aten.randint.low: ("low", "high"), aten.randperm.default: (None, "n"),
    aten.randint_like.default: (None, "high"), aten.randint_like.low_dtype: ("low", "high"),
}  # fmt: skip
"""Random integers, and the arguments between which they lie; from 0 where the first has no name."""
_OF_FLAGS = frozenset({aten._to_copy.default, aten.sum.default, aten.sum.dim_IntList, aten.count_nonzero.default})
"""Counts: of an unknown boolean at most 1, of many as many as there are."""
SOURCES = frozenset({*_ALONG_A_DIMENSION, *_RANDOM, *_OF_FLAGS, aten.nonzero.default,
                     aten.searchsorted.Tensor, aten.bucketize.Tensor})  # fmt: skip
"""Ops whose integers are bounded whatever their arguments' values."""


def follow(
    func: OpOverload,
    args: Sequence[Any],
    kwargs: Mapping[str, Any],
    outputs: Any,
    *,
    source: Callable[[], str],
    inside_a_module: Callable[[], bool],
) -> None:
    """Attach to an op's integers what they can be.

    Args:
        source: the line that runs.
        inside_a_module: whether a module's forward runs, where a maximum of few is a router.
    """
    output = outputs[_ALONG_A_DIMENSION.get(func, 0)] if isinstance(outputs, (tuple, list)) else outputs
    if (
        values.value_of(output) is not None
        or output.dtype not in values.EXACT
        or output.numel() == 0
        or output.numel() > MAP
    ):
        return
    if func in _ALONG_A_DIMENSION:
        _places(func, args, kwargs, output, source, inside_a_module)
    elif func in _RANDOM:
        low, high = (_argument(func, args, kwargs, name) if name else 0 for name in _RANDOM[func])
        _between(output, low, high - 1)
    elif func is aten.nonzero.default:
        most = torch.tensor(args[0].shape, dtype=torch.int64) - 1
        if args[0].dim():
            values.keep(output, (torch.zeros(output.shape, dtype=torch.int64), most.expand(output.shape)))
    elif func in _OF_FLAGS:
        if func is aten.count_nonzero.default or args[0].dtype is torch.bool:
            count = counted.most(args[0])
            most = args[0].numel() // output.numel()
            _between(output, 0, most if count is None else min(most, count))
    else:
        _between(output, 0, args[0 if func is aten.searchsorted.Tensor else 1].shape[-1])


def _places(
    func: OpOverload,
    args: Sequence[Any],
    kwargs: Mapping[str, Any],
    output: Tensor,
    line: Callable[[], str],
    inside_a_module: Callable[[], bool],
) -> None:
    source = args[0]
    dim = -1 if func is aten.multinomial.default else _argument(func, args, kwargs, "dim")
    if source.dim() == 0 or source.numel() == 0:
        return
    among = source.numel() if dim is None else source.shape[dim]
    guess = choice = None
    routes = func in _ROUTING and dim is not None and output.numel() <= LIMIT
    if routes and (output.numel() >= among or (among <= FEW and inside_a_module())):
        rows = source.numel() // among
        choice = values.Choice(rows, output.numel() // rows, among, line())
        guess = _shared_out(output, dim, source.dim(), among)
    high = torch.full(output.shape, among - 1, dtype=output.dtype)
    values.keep(output, (torch.zeros_like(high), high), guess, choice)


def _shared_out(output: Tensor, dim: int, dims: int, among: int) -> Tensor:
    """Choices that go round: 0, 1, 2, … row by row, those of a row side by side along `dim`."""
    running = torch.arange(output.numel(), dtype=output.dtype) % among
    if output.dim() < dims:
        return running.view(output.shape)
    choices = output.shape[dim]
    rest = [size for place, size in enumerate(output.shape) if place != dim % dims]
    return running.view(*rest, choices).movedim(-1, dim)


def _between(output: Tensor, low: int, high: int) -> None:
    if isinstance(low, int) and isinstance(high, int):
        most = torch.full(output.shape, high, dtype=output.dtype)
        values.keep(output, (torch.full_like(most, low), most))
