"""Tensors of classes of their own, and data that is set: on the device as on the CPU."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import memgraph

SIZES = (3, 300)
"""Small host tensors have values, and large ones inside of modules have none."""


class Packed(nn.Parameter):
    """As bitsandbytes' Params4bit."""

    def __new__(cls, data: Tensor, requires_grad: bool = False) -> Packed:
        return torch.Tensor._make_subclass(cls, data, requires_grad)

    def greet(self) -> str:
        return "hello"

    def to(self, *args: Any, **kwargs: Any) -> Packed:  # type: ignore[override]
        return Packed(super().to(*args, **kwargs), self.requires_grad)


class Named(Tensor):
    def total(self) -> torch.Size:
        return self.sum().shape


class Holder(Tensor):
    """Holds another tensor, without `__tensor_flatten__`."""

    inner: Tensor

    @staticmethod
    def __new__(cls: type[Holder], inner: Tensor) -> Holder:
        made = Tensor._make_wrapper_subclass(cls, inner.shape, dtype=inner.dtype, device=inner.device)
        made.inner = inner
        return made

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        inner = [arg.inner if isinstance(arg, Holder) else arg for arg in args]
        result = func(*inner, **(kwargs or {}))
        return cls(result) if isinstance(result, Tensor) else result


def weight(device: str, size: int) -> Tensor:
    return nn.Linear(size, size).weight.data.to(device)


def a_parameter_with_methods(device: str, size: int) -> Any:
    made = Packed(weight(device, size))
    assert isinstance(made, Packed)
    return isinstance(made, nn.Parameter), made.greet(), made.requires_grad, type(made).__name__, tuple(made.shape)


def it_moves(device: str, size: int) -> Any:
    moved = Packed(nn.Linear(size, size).weight.data).to(device)
    return isinstance(moved, Packed), moved.device.type == device


def it_moves_with_its_module(device: str, size: int) -> Any:
    layer = nn.Linear(size, size)
    layer.weight = Packed(layer.weight.data)
    weight = layer.to(device).weight
    result = layer(torch.zeros(2, size, device=device))
    return weight is layer.weight, isinstance(weight, Packed), result.requires_grad, len(list(layer.parameters()))


def results_are_of_the_class(device: str, size: int) -> Any:
    named = weight(device, size).as_subclass(Named)
    return isinstance(named, Named), isinstance(named + 1, Named), named.total(), type(named * 2).__name__


def one_that_holds_another(device: str, size: int) -> Any:
    held = Holder(weight(device, size))
    return isinstance(held + 1, Holder), isinstance(nn.Parameter(held), nn.Parameter)


def copies(device: str, size: int) -> Any:
    copied = copy.deepcopy(Packed(weight(device, size)))
    return isinstance(copied, Packed), copied.greet()


def another_by_its_type(device: str, size: int) -> Any:
    one = nn.Parameter(weight(device, size))
    made = type(one)(weight(device, size), requires_grad=False)
    return isinstance(made, nn.Parameter), made.requires_grad


def data_keeps_what_autograd_knows(device: str, size: int) -> Any:
    calls: list[str] = []
    parameter = nn.Parameter(weight(device, size))
    parameter.register_hook(lambda _: calls.append("gradient"))
    parameter.register_post_accumulate_grad_hook(lambda _: calls.append("accumulated"))
    parameter.sum().backward()  # type: ignore[no-untyped-call]
    node = parameter.expand_as(parameter).grad_fn.next_functions[0][0]
    parameter.data = parameter.data.clone()
    same = parameter.expand_as(parameter).grad_fn.next_functions[0][0] is node
    parameter.sum().backward()  # type: ignore[no-untyped-call]
    parameter.data = parameter.data.half()
    assert parameter.grad is not None
    return same, calls, parameter.dtype, parameter.grad.dtype


def moving_keeps_it(device: str, size: int) -> Any:
    calls: list[str] = []
    layer = nn.Linear(size, size)
    layer.weight.register_hook(lambda _: calls.append("gradient"))
    layer.weight.register_post_accumulate_grad_hook(lambda _: calls.append("accumulated"))
    layer(torch.zeros(2, size)).sum().backward()
    layer.to(device)
    assert layer.weight.grad is not None
    moved = layer.weight.grad.device.type == device
    layer(torch.zeros(2, size, device=device)).sum().backward()
    return moved, calls


def real_data_for_fake(device: str, size: int) -> Any:
    parameter = nn.Parameter(weight(device, size))
    parameter.data = torch.ones(2)
    return parameter.device.type, isinstance(parameter, nn.Parameter), parameter.sum().item()


def swapped_for_a_real_one(device: str, size: int) -> Any:
    one, other = nn.Parameter(weight(device, size)), nn.Parameter(torch.zeros(2))
    torch.utils.swap_tensors(one, other)
    return one.shape, other.shape, other.device.type == device


def assigned_to_a_module_on_meta(device: str, size: int) -> Any:
    layer = nn.Linear(size, size, device="meta")
    layer.load_state_dict(nn.Linear(size, size).to(device).state_dict(), assign=True)
    return layer.weight.device.type == device, layer(torch.zeros(2, size, device=device)).shape


SCRIPTS = (
    a_parameter_with_methods, it_moves, it_moves_with_its_module, results_are_of_the_class, one_that_holds_another,
    copies, another_by_its_type, data_keeps_what_autograd_knows, moving_keeps_it, real_data_for_fake,
    swapped_for_a_real_one, assigned_to_a_module_on_meta,
)  # fmt: skip


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("script", SCRIPTS, ids=lambda script: script.__name__)
def test_as_on_the_cpu(script: Callable[[str, int], Any], size: int) -> None:
    with memgraph.virtual_gpu("rtx3090") as gpu:
        found = script("cuda", size)
    assert found == script("cpu", size)
    gpu.trace.self_check()


def test_setting_data_is_no_op_and_allocates_nothing() -> None:
    with memgraph.virtual_gpu("rtx3090") as gpu:
        parameter, value = nn.Parameter(torch.zeros(8, device="cuda")), torch.ones(4, device="cuda")
        before = len(gpu.trace.ops)
        parameter.data = value
        assert len(gpu.trace.ops) == before
        assert torch.cuda.memory_stats()["requested_bytes.all.current"] == 16  # the eight went


def test_a_parameter_made_like_another_with_all_that_it_has() -> None:
    """accelerate's `init_empty_weights`: `type(p)(p.to("meta"), **p.__dict__, requires_grad=…)`."""
    with memgraph.virtual_gpu("rtx3090"):
        for old in (nn.Parameter(torch.zeros(3, device="cuda")), nn.Linear(4096, 4096).weight):
            made = type(old)(old.to("meta"), **{**vars(old), "requires_grad": False})
            assert isinstance(made, nn.Parameter)
            assert (made.device.type, made.requires_grad, made.shape) == ("meta", False, old.shape)
        old.mine = 1
        with pytest.raises(TypeError):
            type(old)(old.to("meta"), **vars(old))  # as `Parameter(data, mine=1)`
