"""What a script reads out of tensors that hold no values: text, arrays, numbers, pages that are pinned."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor, unset_fake_temporarily

from memgraph.virtual.patches import replaced
from memgraph.virtual.values import known as values

Assume = Callable[[str], None]
"""Told of an assumption, without the place where it is made."""


@contextlib.contextmanager
def tensors_are_read(assume: Assume) -> Iterator[None]:
    """While open, fake tensors are formatted, turned into arrays and pinned as real ones are."""
    changes: list[tuple[Any, str, Any]] = [
        (FakeTensor, "__format__", format_fake),
        (FakeTensor, "numpy", _numpy(assume)),
        (FakeTensor, "tolist", _tolist(FakeTensor.tolist, assume)),
        (Tensor, "pin_memory", pinned),
        (torch, "tensor", _of_numbers(torch.tensor)),
        (torch, "as_tensor", _of_numbers(torch.as_tensor)),
        (torch, "isfinite", _isfinite(torch.isfinite, assume)),
        (Tensor, "isfinite", _isfinite(Tensor.isfinite, assume)),
    ]
    changes += [(FakeTensor, name, _of_one(getattr(Tensor, name), assume)) for name in _NUMBERS]
    with contextlib.ExitStack() as stack:
        for owner, name, value in changes:
            stack.enter_context(replaced(owner, name, value))
        stack.enter_context(_shallow_copies())
        yield


@contextlib.contextmanager
def _shallow_copies() -> Iterator[None]:
    """`copy.copy` goes through `__reduce_ex__` unless there is a `__copy__`, which tensors do not have."""
    FakeTensor.__copy__ = copy_fake  # type: ignore[attr-defined]
    try:
        yield
    finally:
        del FakeTensor.__copy__  # type: ignore[attr-defined]


def copy_fake(self: FakeTensor) -> Tensor:
    """As `copy.copy` of a real tensor: another tensor on the same storage, a leaf of its own."""
    own = self.detach()
    if isinstance(self, torch.nn.Parameter):
        return torch.nn.Parameter(own, self.requires_grad)
    return own.requires_grad_(self.requires_grad)


_NUMBERS = ("item", "__int__", "__index__")
"""What makes one whole number of a tensor, and refuses one with several elements."""


def _of_one(read: Callable[[Tensor], Any], assume: Assume) -> Callable[[Tensor], Any]:
    """`(schedule == t).nonzero().item()`: whoever reads one number of what was selected knows that there is one."""

    @functools.wraps(read)
    def of_one(self: Tensor) -> Any:
        if self.numel() > 1 and values.has_assumed_size(self):
            assume("what is read as one number is taken to be one element")
            self = self.flatten()[0]
        return read(self)

    return of_one


def format_fake(tensor: Tensor, spec: str) -> str:
    """As `Tensor.__format__` (torch/_tensor.py), which does not take subclasses: a scalar's number is formatted."""
    return format(tensor.item(), spec) if tensor.dim() == 0 else object.__format__(tensor, spec)


def _numpy(assume: Assume) -> Callable[..., Any]:
    def numpy(self: FakeTensor, *, force: bool = False) -> Any:
        """As `Tensor.numpy`: the values where they are known, ones elsewhere, which take no memory."""
        if not force and self.fake_device.type != "cpu":
            raise TypeError(
                f"can't convert {self.fake_device} device type tensor to numpy. "
                "Use Tensor.cpu() to copy the tensor to host memory first."
            )
        if not force and self.requires_grad:
            raise RuntimeError("Can't call numpy() on Tensor that requires grad. Use tensor.detach().numpy() instead.")
        known = values.known(self)
        if known is not None:
            return known.clone().numpy()
        assume("the values of a tensor that is turned into an array are taken to be 1")
        return torch.ones((), dtype=self.dtype).expand(self.shape).numpy()

    return numpy


_FEW = 1000
"""Elements of a list up to which each is asked for, and gets what is known of it."""


def _tolist(original: Callable[[FakeTensor], Any], assume: Assume) -> Callable[[FakeTensor], Any]:
    def tolist(self: FakeTensor) -> Any:
        """As `Tensor.tolist`. A long list is no loop that waits: embeddings that are handed out, scores of a test."""
        known = values.known(self)
        if known is not None:
            return known.tolist()
        if self.numel() <= _FEW:
            return original(self)
        assume("the values of a tensor that is turned into a list are taken to be 1")
        with unset_fake_temporarily():
            return torch.ones((), dtype=self.dtype).expand(self.shape).tolist()

    return tolist


def _isfinite(original: Callable[[Tensor], Tensor], assume: Assume) -> Callable[[Tensor], Tensor]:
    """Scripts ask this to stop where training went wrong."""

    def isfinite(self: Tensor) -> Tensor:
        result = original(self)
        if isinstance(result, FakeTensor) and values.known(result) is None and values.worth_following(result):
            assume("values that nobody knows are taken to be finite")
            with unset_fake_temporarily():
                known = torch.ones(result.shape, dtype=torch.bool)
            values.remember(result, known)
        return result

    return isfinite


def _of_numbers(make: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """`torch.tensor([a, 2, b])` of tensors with one element reads each below every dispatch mode
    (torch/csrc/utils/tensor_new.cpp, `recursive_store`); here they are read as `.item()` reads them."""

    @functools.wraps(make)
    def made(data: Any, *args: Any, **kwargs: Any) -> Tensor:
        return make(_numbers(data) if isinstance(data, (list, tuple)) else data, *args, **kwargs)

    return made


def _numbers(data: Any) -> Any:
    if isinstance(data, (list, tuple)):
        return [_numbers(item) for item in data]
    return data.item() if isinstance(data, FakeTensor) and data.numel() == 1 else data


_PINNED = "_memgraph_pinned"


def pinned(self: Tensor, _device: Any = None) -> Tensor:
    """Page-locked memory is the host's, and CUDA's to give: the tensor stays where it is, and says so."""
    setattr(self, _PINNED, True)
    return self


def is_pinned(self: Tensor, _device: Any = None) -> bool:
    """Whether page-locked memory was asked for: DDP's reducer asserts that it was given."""
    return hasattr(self, _PINNED)
