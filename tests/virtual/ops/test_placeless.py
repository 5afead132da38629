"""What an op's results look like is the same whether FakeTensor finds it or the meta kernel alone."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor

import memgraph
from memgraph.virtual.ops import sparse
from memgraph.virtual.ops.placeless import is_placeless

aten = torch.ops.aten
Make = Callable[[], tuple[Any, ...]]


def tensors() -> dict[str, Callable[[], Tensor]]:
    """Layouts that decide strides and offsets of results."""

    def plain(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
        return torch.empty(shape, dtype=dtype, device="cuda")

    return {
        "rows": lambda: plain(2, 3, 4, 6),
        "channels last": lambda: plain(2, 3, 4, 6).contiguous(memory_format=torch.channels_last),
        "turned": lambda: plain(6, 4, 3, 2).permute(3, 2, 1, 0),
        "spread": lambda: plain(2, 1, 4, 1).expand(2, 3, 4, 6),
        "a part": lambda: plain(2, 3, 4, 9)[..., 3:],
        "every other": lambda: plain(2, 3, 4, 12)[..., ::2],
        "half": lambda: plain(2, 3, 4, 6, dtype=torch.float16),
        "whole numbers": lambda: plain(2, 3, 4, 6, dtype=torch.int32),
        "flags": lambda: plain(2, 3, 4, 6, dtype=torch.bool),
        "nothing": lambda: plain(2, 0, 4, 6),
    }


UNARY: dict[str, Callable[[Tensor], Any]] = {
    "slice": lambda x: x[:, :, 1:3],
    "select": lambda x: x.select(2, 1),
    "unsqueeze": lambda x: x.unsqueeze(1),
    "expand": lambda x: x.unsqueeze(0).expand(5, -1, -1, -1, -1),
    "transpose": lambda x: x.transpose(1, 3),
    "split": lambda x: x.split(4, dim=3),
    "unbind": lambda x: x.unbind(2),
    "unfold": lambda x: x.unfold(3, 2, 2),
    "detach": lambda x: x.detach(),
    "clone": lambda x: x.clone(),
    "clone in rows": lambda x: x.clone(memory_format=torch.contiguous_format),
    "clone channels last": lambda x: x.clone(memory_format=torch.channels_last),
    "pad": lambda x: torch.nn.functional.pad(x, (1, 2)),
    "pad, less": lambda x: torch.nn.functional.pad(x, (1, -1, 0, 2)),
    "cat": lambda x: torch.cat((x, x), dim=1),
    "cat with its row": lambda x: torch.cat((x, x[:, :, :1]), dim=2),
    "abs": lambda x: x.abs(),
    "not": lambda x: x.logical_not(),
    "is": lambda x: x == 1,
    "add a number": lambda x: x + 1.5,
    "where": lambda x: torch.where(x == 0, x, x),
    "fill": lambda x: x.clone().masked_fill_(x == 0, 1),
    "power": lambda x: x.float().pow(2),
    "clamp": lambda x: x.float().clamp(0, 1),
    "sum": lambda x: x.sum(),
    "sum of some": lambda x: x.sum((1, 3)),
    "sum, kept": lambda x: x.sum(2, keepdim=True, dtype=torch.float64),
    "mean": lambda x: x.float().mean((0, 2)),
    "any": lambda x: x.any(1),
    "all": lambda x: (x == 0).all(),
    "running sum": lambda x: x.cumsum(3),
    "another type": lambda x: x.to(torch.float64),
    "another type, in rows": lambda x: x.to(torch.float64, memory_format=torch.contiguous_format),
    "a copy": lambda x: x.to(x.dtype, copy=True),
    "there already": lambda x: x.to("cuda", torch.float64),
    "on the host": lambda x: x.to("cpu", torch.float64),
    "new ones": lambda x: x.new_ones(2, 3),
    "new, of another type": lambda x: x.new_full((2, 3), 1, dtype=torch.int64),
    "new, on the host": lambda x: x.new_zeros((2, 3), device="cpu"),
    "new, with strides": lambda x: x.new_empty_strided((2, 3), (1, 2)),
}
BINARY: dict[str, Callable[[Tensor, Tensor], Any]] = {
    "add": lambda x, y: x + y,
    "mul a row": lambda x, y: x * y[:1, :, :1],
    "less": lambda x, y: x <= y,
    "cat": lambda x, y: torch.cat((x, y)),
    "scalar": lambda x, y: x * y.flatten()[:1].sum(),
    "is in": lambda x, y: torch.isin(x, y),
}


def told(outputs: Any) -> list[tuple[Any, ...]]:
    """What may differ."""
    each = outputs if isinstance(outputs, (list, tuple)) else (outputs,)
    return [
        (o.shape, o.stride(), o.storage_offset(), o.dtype, o.device, o.untyped_storage().nbytes(), o._is_view())
        for o in each
    ]


@pytest.fixture
def recorder() -> Iterator[Any]:
    with memgraph.virtual_gpu("h100") as gpu:
        yield gpu.recorder


def both_ways(recorder: Any, call: Callable[[], Any]) -> tuple[Any, Any]:
    """A call's outcome with the short way open, and with FakeTensor alone."""

    def outcome() -> Any:
        try:
            return told(call())
        except (RuntimeError, NotImplementedError) as error:
            return str(error).splitlines()[0]

    short = outcome()
    recorder.shapes._recipes.clear()
    ways = [operator for operator in recorder.operators.known.values() if operator.placeless]
    for operator in ways:
        operator.placeless = False
    long = outcome()
    for operator in ways:
        operator.placeless = True
    recorder.shapes._recipes.clear()
    return short, long


@pytest.mark.parametrize("op", UNARY)
def test_of_one_tensor(recorder: Any, op: str) -> None:
    for name, make in tensors().items():
        source = make()
        short, long = both_ways(recorder, lambda source=source: UNARY[op](source))
        assert short == long, name


@pytest.mark.parametrize("op", BINARY)
def test_of_two_tensors(recorder: Any, op: str) -> None:
    made = {name: make() for name, make in tensors().items() if name != "nothing"}
    for first, x in made.items():
        for second, y in made.items():
            short, long = both_ways(recorder, lambda x=x, y=y: BINARY[op](x, y))
            assert short == long, (first, second)


def test_a_repeated_size_is_asked_of_fake_tensor_once(monkeypatch: pytest.MonkeyPatch, recorder: Any) -> None:
    asked = []
    inferring = type(recorder.inferring)
    by_kernel = inferring._made_by_kernel

    def counted(self: Any, operator: Any, *args: Any) -> Any:
        asked.append(operator.name)
        return by_kernel(self, operator, *args)

    monkeypatch.setattr(inferring, "_made_by_kernel", counted)
    keys = torch.empty(1, 4, 1, 64, device="cuda")
    for _ in range(8):  # as a cache grows: each size is new
        keys = torch.cat((keys, keys[:, :, :1]), dim=2)
        assert keys.unsqueeze(2).expand(1, 4, 2, -1, 64).clone()._is_view() is False
        assert keys.sum().dtype is keys.half().sum(2).float().dtype is keys.new_ones(keys.shape[2]).dtype
    assert [name for name in asked if name != "aten.empty.memory_format"] == []


def test_what_depends_on_more_is_left_to_fake_tensor() -> None:
    for func in (aten.zeros_like.default, aten.ones.default, aten.add.out, aten.nonzero.default, aten.mm.default):
        assert not is_placeless(func, views=False), func
    for func in (aten.add.Tensor, aten.masked_fill_.Scalar, aten.cat.default, aten._to_copy.default, aten.sum.default):
        assert is_placeless(func, views=False), func
    assert is_placeless(aten.view.default, views=True)


def test_our_own_kernels_of_such_ops_are_for_sparse_tensors(recorder: Any) -> None:
    short = [
        recorder.operators.of(func) for func in recorder.operators.kernels if recorder.operators.of(func).placeless
    ]
    assert aten.clone.default in {operator.func for operator in short}
    assert {operator.kernel.__module__ for operator in short} == {sparse.__name__}


def test_tensors_of_two_places_are_not_taken_together(recorder: Any) -> None:
    number = torch.tensor(2.0)  # a real one, of the host
    assert told(torch.empty(3, device="cuda", dtype=torch.float16) * number)[0][3] is torch.float16
    with pytest.raises(RuntimeError):
        torch.empty(3, device="cuda") + torch.empty(3)
