"""What a script reads out of tensors that hold no values: text, arrays, files, pages that are pinned."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor

from memgraph.errors import MemgraphError
from memgraph.virtual import values
from memgraph.virtual.patches import replaced

Assume = Callable[[str], None]
"""Told of an assumption, without the place where it is made."""


@contextlib.contextmanager
def tensors_are_read(assume: Assume) -> Iterator[None]:
    """While open, fake tensors are formatted, turned into arrays, saved and pinned as real ones are."""
    changes: list[tuple[Any, str, Any]] = [
        (FakeTensor, "__format__", format_fake),
        (FakeTensor, "numpy", _numpy(assume)),
        (FakeTensor, "__reduce_ex__", _reduce(assume)),
        (Tensor, "pin_memory", _pinned),
    ]
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


def _reduce(assume: Assume) -> Callable[..., Any]:
    def reduce(self: FakeTensor, _protocol: Any) -> Any:
        assume("a tensor is saved without values")
        return no_values, (tuple(self.shape), str(self.dtype))

    return reduce


def no_values(shape: tuple[int, ...], dtype: str) -> Tensor:
    """What a saved fake tensor is read back as.

    Raises:
        MemgraphError: always.
    """
    raise MemgraphError(
        f"a {dtype} tensor of shape {list(shape)} was saved on a virtual GPU and has no values: "
        "save and load it in a real run"
    )


def _pinned(self: Tensor, _device: Any = None) -> Tensor:
    """Page-locked memory is the host's, and CUDA's to give: the tensor stays where it is."""
    return self
