"""TorchScript and device contexts know torch's functions by their identity, also those that the virtual GPU puts others
in place of."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils import _device

import memgraph


def test_a_function_that_is_replaced_is_scripted_as_torchs_own() -> None:
    def made(x: torch.Tensor) -> torch.Tensor:
        return x * torch.tensor(2.0) + torch.as_tensor(1.0)

    with memgraph.virtual_gpu("h100"):
        scripted = torch.jit.script(made)
        assert scripted(torch.zeros(3, device="cuda")).shape == (3,)
    assert torch.equal(torch.jit.script(made)(torch.ones(1)), torch.tensor([3.0]))


def test_torchs_own_scripts_are_imported_inside() -> None:
    with memgraph.virtual_gpu("h100"):
        import torch.distributed.optim

        assert torch.distributed.optim.ZeroRedundancyOptimizer


MADE: list[Callable[..., Tensor]] = [
    functools.partial(torch.tensor, [1.0]),
    functools.partial(torch.as_tensor, [1.0]),
    functools.partial(torch.arange, 3),
    functools.partial(torch.zeros, 3),
]


@pytest.fixture
def _nothing_written_down() -> Any:
    _device._device_constructors.cache_clear()
    yield
    _device._device_constructors.cache_clear()


@pytest.mark.usefixtures("_nothing_written_down")
@pytest.mark.parametrize("place", ["meta", "cuda", "cpu"])
def test_a_device_context_gives_all_their_place(place: str) -> None:
    """transformers asks `torch.tensor([]).device` whether a model is made on the meta device, and else fills it."""
    with memgraph.virtual_gpu("h100"), torch.device(place):
        assert {make().device.type for make in MADE} == {place}
    with torch.device("meta"):
        assert {make().device.type for make in MADE} == {"meta"}
