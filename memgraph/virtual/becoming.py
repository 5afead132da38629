"""`tensor.data = other` and `module.to(device)`: a tensor stays the same object, with other data.

Between fake tensors torch's own setter does it. Where one of the two is real the C++ objects change places
(`torch._C._swap_tensor_impl`), and what autograd knows of the tensor, its gradient and its hooks, moves with it.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor
from torch.utils._python_dispatch import _disable_current_modes, is_traceable_wrapper_subclass

from memgraph.virtual.ops.recurrent import flatten_parameters
from memgraph.virtual.patches import replaced
from memgraph.virtual.subclasses import fake_class, plain_class


@contextlib.contextmanager
def tensors_become_others() -> Iterator[None]:
    """While open, data is set, modules are moved and recurrent weights flattened as for real tensors."""
    with contextlib.ExitStack() as stack:
        stack.enter_context(replaced(Tensor, "data", property(_get_data, _set_data)))
        stack.enter_context(replaced(torch.nn.Module, "_apply", apply_to_module))
        stack.enter_context(_recurrent_weights_flatten())
        yield


_DATA: Any = vars(torch._C.TensorBase)["data"]
_get_data = _DATA.__get__


def _set_data(self: Tensor, value: Tensor) -> None:
    if isinstance(self, FakeTensor) and isinstance(value, FakeTensor):
        _DATA.__set__(self, value)
        _take(self, value)
    elif isinstance(value, FakeTensor):
        _become(self, _another(value), fake_class(type(self)))
    elif isinstance(self, FakeTensor):
        _become(self, _another(value), plain_class(self))
    else:
        _DATA.__set__(self, value)


def _another(value: Tensor) -> Tensor:
    """A tensor with the same data: the value stays whose it is. No mode sees an op, as torch's own setter has none."""
    with _disable_current_modes():
        made = value.detach()
    if isinstance(made, FakeTensor) and isinstance(value, FakeTensor):
        _take(made, value)
    return made


def _take(tensor: FakeTensor, value: FakeTensor) -> None:
    """What Python knows of the value: where it is, which op made it, what is known of it."""
    fresh = {name: known for name, known in vars(value).items() if _is_of_the_value(name)}
    kept = {name: known for name, known in vars(tensor).items() if not _is_of_the_value(name)}
    vars(tensor).clear()
    vars(tensor).update(kept | fresh)


def _is_of_the_value(name: str) -> bool:
    return name in ("fake_device", "_fake_device") or (name.startswith("_memgraph_") and name != "_memgraph_name")


def apply_to_module(self: torch.nn.Module, fn: Callable[[Any], Any], recurse: bool = True) -> torch.nn.Module:
    """`Module._apply` as it is for real tensors: each parameter stays the same object, with new data.

    torch 2.11 to 2.15 swaps fake parameters, which fails where a weak reference exists, and replaces a real parameter
    that becomes fake, which unties tied weights and leaves optimizers with the old one.
    """
    if recurse:
        for module in self.children():
            module._apply(fn)
    for name, parameter in self._parameters.items():
        if parameter is not None:
            gradient = parameter.grad
            self._parameters[name] = converted = _convert(parameter, fn)
            if gradient is not None:
                converted.grad = _convert(gradient, fn)
    for name, buffer in self._buffers.items():
        if buffer is not None:
            self._buffers[name] = fn(buffer)
    return self


def _convert(tensor: Tensor, fn: Callable[[Any], Any]) -> Any:
    """The same tensor with other data; another one where it leaves the meta device or comes to it, for no data can be
    set across (`_has_compatible_shallow_copy_type`; `Module._apply` then makes a new parameter, which ties nothing)."""
    with torch.no_grad():
        converted = fn(tensor)
    if converted is tensor:
        return tensor
    if is_traceable_wrapper_subclass(tensor):
        _swap(tensor, converted)
    elif (tensor.device.type == "meta") is not (converted.device.type == "meta"):
        is_parameter = isinstance(tensor, torch.nn.Parameter)
        return torch.nn.Parameter(converted, tensor.requires_grad) if is_parameter else converted
    else:
        tensor.data = converted
    return tensor


def _swap(wrapper: Tensor, converted: Tensor) -> None:
    """A tensor that holds others (DTensor) takes new ones: torch swaps it (`Module._apply`)."""
    if isinstance(wrapper, torch.nn.Parameter):
        converted = torch.nn.Parameter(converted, requires_grad=wrapper.requires_grad)
    grad, wrapper.grad = wrapper.grad, None
    torch.utils.swap_tensors(wrapper, converted)
    if grad is not None:
        wrapper.grad = grad


def _become(tensor: Tensor, other: Tensor, kind: type[Tensor]) -> None:
    """`tensor` is what `other` was, and of this class; it stays the same object, and references to it stay good. No op
    is dispatched, as none is for real tensors."""
    gradient, hooks, after = tensor.grad, tensor._backward_hooks, tensor._post_accumulate_grad_hooks
    parameter = isinstance(tensor, torch.nn.Parameter)
    kept = {name: value for name, value in vars(tensor).items() if _is_the_users(name, tensor)}
    other.requires_grad_(tensor.requires_grad)
    state = dict(vars(other)) if isinstance(other, FakeTensor) else {}
    torch._C._swap_tensor_impl(tensor, other)
    other.__class__, tensor.__class__ = type(tensor), kind
    vars(tensor).clear()
    vars(tensor).update(state | kept)
    vars(other).clear()
    if parameter and kind is FakeTensor:
        tensor._is_param = True
    if hooks is not None:
        tensor._backward_hooks = hooks
    if after is not None:
        tensor._post_accumulate_grad_hooks = after
    if gradient is not None and (gradient.device, gradient.shape) == (tensor.device, tensor.shape):
        tensor.grad = gradient


def _is_the_users(name: str, tensor: Tensor) -> bool:
    """Whether somebody set it, and it is not what makes a tensor fake."""
    if name == "_memgraph_name":
        return True
    ours = isinstance(tensor, FakeTensor) and name in _state_names()
    return not ours and name != "_is_param" and not name.startswith("_memgraph_")


def _state_names() -> frozenset[str]:
    return frozenset(vars(torch.empty(0, device="cuda")))


@contextlib.contextmanager
def _recurrent_weights_flatten() -> Iterator[None]:
    """Recurrent modules put their weights into one buffer with cuDNN's help; they tell shared parameters from others by
    their addresses, which fake tensors do not have."""
    original = torch.nn.RNNBase.flatten_parameters

    def flatten(self: torch.nn.RNNBase) -> None:
        if not any(isinstance(param, FakeTensor) for param in self._flat_weights):
            original(self)
        else:
            flatten_parameters(self, _set_data)

    with replaced(torch.nn.RNNBase, "flatten_parameters", flatten):
        yield
