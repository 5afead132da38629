"""What an op's results look like, found without FakeTensor: for views, elementwise ops, sums and a few more.

What FakeTensor does besides running the kernel of the meta device is to find out where the result is, which values
decide, and which op is made of others. None of that is open for a view or an elementwise op whose tensors are all on
one device: the kernel is run on tensors of the meta device that look at the same storages. A generation makes each size
once, so that nearly all it asks of FakeTensor are these.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch._ops import OpOverload
from torch._subclasses.fake_tensor import FakeTensor

aten = torch.ops.aten
_MORE = frozenset(
    {
        aten.cat.default, aten.clone.default, aten.constant_pad_nd.default, aten._unsafe_view.default,
        aten.masked_fill.Scalar, aten.masked_fill.Tensor, aten.masked_fill_.Scalar, aten.masked_fill_.Tensor,
        aten.sum.default, aten.sum.dim_IntList, aten.mean.default, aten.mean.dim, aten.cumsum.default,
        aten.any.default, aten.any.dim, aten.all.default, aten.all.dim, aten.isin.Tensor_Tensor,
    }
)  # fmt: skip
_STAYING = frozenset(
    {
        aten._to_copy.default, aten.new_empty.default, aten.new_ones.default, aten.new_zeros.default,
        aten.new_full.default,
    }
)  # fmt: skip
"""Their results are where their tensor is, unless it is said otherwise."""
_PLACED = frozenset({"device", "layout", "pin_memory"})
"""Arguments that say where a result is."""

Standing = Callable[[Tensor], Tensor]
"""Gives the tensor of the meta device that stands for a fake one."""


def is_placeless(func: OpOverload, *, views: bool) -> bool:
    """Whether it is such an op, if its tensors are on one device.

    Args:
        views: it returns views alone, or what it writes to.
    """
    if func in _STAYING:
        return True
    if any(argument.is_out or argument.name in _PLACED for argument in func._schema.arguments):
        return False
    return func in _MORE or torch.Tag.pointwise in func.tags or (views and not func._schema.is_mutable)


def are_together(tensors: Sequence[Tensor]) -> bool:
    """Whether these are plain fake tensors of one device."""
    places = {tensor.fake_device for tensor in tensors if tensor.__class__ is FakeTensor}  # type: ignore[attr-defined]
    return len(places) == 1 and all(
        tensor.__class__ is FakeTensor and tensor.layout is torch.strided and not tensor.dtype.is_complex
        for tensor in tensors
    )


def run_without_place(func: OpOverload, args: Sequence[Any], kwargs: Mapping[str, Any], stand: Standing) -> Any:
    """The op's results on tensors that stand for its own; None if it is said where they are, or if its kernel refuses,
    for FakeTensor to say why."""
    if any(kwargs.get(name) for name in _PLACED):
        return None
    try:
        return func(*[_standing(arg, stand) for arg in args], **{k: _standing(v, stand) for k, v in kwargs.items()})
    except (RuntimeError, TypeError, ValueError, IndexError, NotImplementedError):
        return None


def _standing(arg: Any, stand: Standing) -> Any:
    if isinstance(arg, Tensor):
        return stand(arg)
    if isinstance(arg, (list, tuple)):
        return [_standing(item, stand) for item in arg]
    return arg
