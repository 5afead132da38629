"""Tensors of classes of their own on the virtual GPU: quantised weights, named tensors, parameters with methods.

A fake tensor is a `FakeTensor`, and a script's own class (bitsandbytes' `Params4bit`, a `Parameter` with a method) is
not. One that is both is made for each such class: `isinstance` and the class's own methods hold, and ops find a fake
tensor. Classes that hold other tensors (torchao's, DTensor) need none: they call again with what they hold.
"""

from __future__ import annotations

import contextlib
import functools
import inspect
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode

from memgraph.virtual.own_names import of_fakes
from memgraph.virtual.patches import replaced
from memgraph.virtual.raw import make_subclass

_PLAIN = "_memgraph_plain_class"
_as_subclass = Tensor.as_subclass


@functools.cache
def fake_class(kind: type[Tensor]) -> type[FakeTensor]:
    """The class of fake tensors that are of this class too; `Tensor` and `Parameter` need none."""
    if kind in (Tensor, nn.Parameter):
        return FakeTensor
    if issubclass(kind, FakeTensor):
        return kind
    names = {"__module__": kind.__module__, "__qualname__": kind.__qualname__, _PLAIN: kind}
    meta: Any = type(kind)
    made: type[FakeTensor] = meta(kind.__name__, (kind, FakeTensor), names)
    # torch takes the default away from classes that have a `__torch_dispatch__` (`THPVariableMetaType_init`)
    made.__torch_function__ = inspect.getattr_static(kind, "__torch_function__")  # type: ignore[method-assign]
    return made


def plain_class(tensor: Tensor) -> type[Tensor]:
    """The class that a fake tensor would have if it were a real one."""
    kind = type(tensor)
    if kind is FakeTensor:
        return nn.Parameter if isinstance(tensor, nn.Parameter) else Tensor
    return getattr(kind, _PLAIN, kind)


@functools.cache
def has_fakes(kinds: tuple[type, ...]) -> bool | None:
    """Whether there are fake tensors among those of these classes; None if some only hold others."""
    return None if any(map(holds_others, kinds)) else any(issubclass(kind, FakeTensor) for kind in kinds)


@functools.cache
def holds_others(kind: type) -> bool:
    """Whether tensors of this class only hold others, on which they call again."""
    if hasattr(kind, "__tensor_flatten__"):
        return True
    dispatches = getattr(kind, "__torch_dispatch__", None)
    own = dispatches not in (None, torch._C._disabled_torch_dispatch_impl, FakeTensor.__torch_dispatch__)
    return own and issubclass(kind, Tensor) and not issubclass(kind, FakeTensor)


@contextlib.contextmanager
def subclasses_are_made() -> Iterator[None]:
    """While open, fake tensors can be given a class."""
    with contextlib.ExitStack() as stack:
        stack.enter_context(replaced(Tensor, "_make_subclass", staticmethod(_made)))
        stack.enter_context(replaced(Tensor, "as_subclass", _seen_as))
        stack.enter_context(replaced(FakeTensor, "__new__", _new(FakeTensor.__new__)))
        yield


def _made(cls: type[Tensor], data: Tensor, require_grad: bool = False, *args: Any, **kwargs: Any) -> Tensor:
    plain: type[Tensor] = vars(cls).get(_PLAIN, cls)
    if isinstance(data, FakeTensor) and plain is not FakeTensor:
        with torch.no_grad():
            made = data.detach()
        return _dressed(made, plain).requires_grad_(require_grad)
    return make_subclass(plain, data, require_grad, *args, **kwargs)


def _seen_as(self: Tensor, cls: type[Tensor]) -> Tensor:
    plain: type[Tensor] = vars(cls).get(_PLAIN, cls)
    if isinstance(self, FakeTensor) and plain is not FakeTensor:
        return _dressed(torch.ops.aten.alias(self), plain)
    return _as_subclass(self, plain)


def _dressed(fake: Tensor, plain: type[Tensor]) -> Tensor:
    fake.__class__ = fake_class(plain)
    if plain is nn.Parameter:
        fake._is_param = True
    return fake


def _new(original: Callable[..., FakeTensor]) -> Any:
    """`type(parameter)(data, requires_grad=...)`, as libraries make one like another: a fake parameter's type is
    `FakeTensor`, which torch makes from a mode."""

    @functools.wraps(original)
    def new(cls: type[FakeTensor], first: Any = None, *args: Any, **kwargs: Any) -> Any:
        if isinstance(first, FakeTensorMode) or (first is None and "fake_mode" in kwargs):
            return original(cls, first, *args, **kwargs)
        users = {name: value for name, value in kwargs.items() if not of_fakes(name)}  # of `**parameter.__dict__`
        return nn.Parameter(first, *args, **users)

    return staticmethod(new)
