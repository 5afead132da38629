"""What is known of tensors that hold no values.

A small integer or boolean tensor whose elements are known (an `arange`, token ids moved over from the CPU) carries them
along as a real CPU tensor; an op on such tensors is also run for real. So `position_ids.max() + 1 > limit`, a boolean
mask over token ids, or `nonzero` of it have their true result. What cannot be known is assumed (`assumed.py`).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch._ops import OpOverload
from torch._subclasses.fake_tensor import FakeTensor

LIMIT = 2**22
"""Elements up to which values are followed: token ids of a large batch, never activations."""

_ATTRIBUTE = "_memgraph_value"
_STALE = "_memgraph_stale"
_EXACT = frozenset({torch.bool, torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64})


def known(tensor: Tensor) -> Tensor | None:
    """The values of a fake tensor, if they are known."""
    value: Tensor | None = vars(tensor).get(_ATTRIBUTE)
    if value is not None and hasattr(value.untyped_storage(), _STALE):
        return None
    return value


def worth_following(tensor: Tensor) -> bool:
    """Exact types of any moderate size; floats only as scalars, where they decide branches."""
    return tensor.numel() <= (LIMIT if tensor.dtype in _EXACT else 1)


def all_worth_following(outputs: Any) -> bool:
    """Whether an op's outputs are tensors on the device, each of them worth following."""
    tensors = list(_tensors((outputs,), {}))
    return bool(tensors) and all(isinstance(tensor, FakeTensor) and worth_following(tensor) for tensor in tensors)


def all_known(args: Sequence[Any], kwargs: Mapping[str, Any]) -> bool:
    """Whether there are tensors among the arguments and the values of each are known."""
    found = False
    for tensor in _tensors(args, kwargs):
        if isinstance(tensor, FakeTensor):
            if _ATTRIBUTE not in tensor.__dict__ or known(tensor) is None:
                return False
        elif not worth_following(tensor):
            return False
        found = True
    return found


def run_for_real(func: OpOverload, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
    """The op's result on the known values, as real CPU tensors."""
    real_kwargs = {name: _real(arg) for name, arg in kwargs.items()}
    if "device" in real_kwargs:
        real_kwargs["device"] = torch.device("cpu")
    return func(*[_real(arg) for arg in args], **real_kwargs)


def stand_in(like: Tensor, output: Tensor) -> Tensor:
    """A real tensor for the first argument of `ones_like` and its kin, of which only dtype and shape matter. It is as
    large as the output, which is known to be small, and not as the argument."""
    return torch.empty(output.shape, dtype=like.dtype)


def remember(outputs: Any, values: Any) -> None:
    """Attach an op's real results to its fake outputs, position by position."""
    if isinstance(outputs, FakeTensor):
        if isinstance(values, Tensor) and worth_following(values):
            outputs.__dict__[_ATTRIBUTE] = values
    elif isinstance(outputs, (list, tuple)) and isinstance(values, (list, tuple)):
        for output, value in zip(outputs, values, strict=False):
            remember(output, value)


def forget(tensor: Any) -> None:
    """The tensor was written to with something unknown: its values, and those of all its views, are unknown now."""
    if isinstance(tensor, FakeTensor) and (value := tensor.__dict__.pop(_ATTRIBUTE, None)) is not None:
        setattr(value.untyped_storage(), _STALE, value)  # the value keeps the storage's Python object alive


def _tensors(args: Sequence[Any], kwargs: Mapping[str, Any]) -> Iterator[Tensor]:
    for arg in (*args, *kwargs.values()) if kwargs else args:
        if isinstance(arg, Tensor):
            yield arg
        elif isinstance(arg, (list, tuple)):
            yield from _tensors(arg, {})


def _real(arg: Any) -> Any:
    if isinstance(arg, FakeTensor):
        return known(arg)
    if isinstance(arg, (list, tuple)):
        return [_real(item) for item in arg]
    return arg
