"""What the host's generator gives after tensors that hold no values is what it gives after real ones."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode

import memgraph
from memgraph.virtual import draws

ROWS = 317
"""Of 208 columns: 65,936 elements, more than 2^16, of which a tensor that a model makes holds no values."""

OPS: dict[str, Callable[[torch.Tensor], Any]] = {
    "uniform": lambda made: made.uniform_(-1, 1),
    "normal": lambda made: made.normal_(0, 0.02),
    "columns": lambda made: made.t().normal_(),
    "orthogonal": lambda made: nn.init.orthogonal_(made),
    "like": lambda made: torch.randn_like(made),
    "few of them": lambda made: made.random_(0, 100),
    "many": lambda made: made.random_(0, 2**23),
    "any": lambda made: made.random_(),
}


def after(op: Callable[[torch.Tensor], Any], dtype: torch.dtype, columns: int) -> tuple[float, list[int]]:
    """A number and an order that are drawn when a module has made and filled a tensor of its own."""

    class Own(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            with torch.no_grad():
                self.weight = nn.Parameter(torch.empty(ROWS, columns, dtype=dtype))
                op(self.weight.data)

    torch.manual_seed(5)
    Own()
    return torch.rand(()).item(), torch.randperm(9).tolist()


@pytest.mark.parametrize("name", OPS)
def test_what_is_drawn_after_a_model_is_as_on_the_host(name: str) -> None:
    """Also where the last block of normal numbers is drawn again (65,937 = 16 x 4,121 + 1)."""
    for columns in (208, 209):
        real = after(OPS[name], torch.float32, columns)
        with memgraph.virtual_gpu("h200"):
            assert after(OPS[name], torch.float32, columns) == real


@pytest.mark.parametrize("rows", [25_000, 40_013])
def test_many_draws_are_jumped_over(rows: int) -> None:
    """5,200,000 and 8,322,704 words: from 8,192 blocks of 624 on they are not made one after the other."""

    def drawn() -> list[float]:
        torch.manual_seed(5)
        torch.rand(3)
        nn.Embedding(rows, 208)
        return torch.rand(700).tolist()

    real = drawn()
    with memgraph.virtual_gpu("h200"):
        assert drawn() == real


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16])
def test_types_take_draws_of_their_own(dtype: torch.dtype) -> None:
    for name in ("uniform", "normal", "columns"):
        real = after(OPS[name], dtype, 209)
        with memgraph.virtual_gpu("h200"):
            assert after(OPS[name], dtype, 209) == real, name


def test_a_generator_of_the_script_draws_for_itself() -> None:
    """Of the values it was asked for, large or not; the default one stays where it is."""

    def drawn() -> tuple[list[int], list[int], float]:
        generator = torch.Generator().manual_seed(7)
        torch.manual_seed(1)
        first = torch.randint(0, 1000, (5,), generator=generator).tolist()

        class Large(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.made = torch.rand(300, 300, generator=generator)

        Large()
        return first, torch.randperm(6, generator=generator).tolist(), torch.rand(()).item()

    real = drawn()
    with memgraph.virtual_gpu("h200"):
        assert drawn() == real


def test_tensors_on_the_device_take_nothing_of_the_host_s() -> None:
    torch.manual_seed(2)
    real = torch.rand(()).item()
    with memgraph.virtual_gpu("h200"):
        torch.manual_seed(2)
        torch.randn(1000, 1000, device="cuda").uniform_()
        assert torch.rand(()).item() == real


@pytest.mark.parametrize("before", [0, 1, 623, 624, 700])
@pytest.mark.parametrize("count", [1, 623, 624, 625, 1247, 1248, 5000])
def test_so_many_draws_are_so_many_draws(before: int, count: int) -> None:
    """From any place in a block of 624 words to any other."""
    drawn, skipped = (torch.Generator().manual_seed(3) for _ in range(2))
    for generator in (drawn, skipped):
        torch.rand(before, generator=generator)
    torch.rand(count, generator=drawn)
    fake = FakeTensor(FakeTensorMode(), torch.empty(count, device="meta"), torch.device("cpu"))
    draws.advance(lambda made, _: made.numel(), fake, (), {"generator": skipped})
    assert torch.equal(torch.rand(9, generator=drawn), torch.rand(9, generator=skipped))
