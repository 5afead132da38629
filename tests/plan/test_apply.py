"""A plan on real tensors: the same loss, gradients and random numbers, and the model as it was afterwards."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import memgraph
from memgraph.errors import MemgraphError, UsageError
from memgraph.plan.plan_file import KEPT_OPS, Plan, Region
from tests.plan.planned_models import Seven, Towers

ONE_BY_ONE = ("addmm 0, native_layer_norm 0", "addmm 1, gelu 0", "bernoulli_ 0, mul 0 1")
"""The last asks for a random result, which is computed again all the same."""
PLANS = {
    "singles": Plan(tuple(Region((f"blocks.{place}",)) for place in (0, 2, 6))),
    "a region of all": Plan((Region(tuple(f"blocks.{place}" for place in range(7))),)),
    "regions": Plan((Region(("blocks.1", "blocks.2")), Region(("blocks.4", "blocks.5", "blocks.6")))),
    **{
        keep: Plan((Region(("blocks.0",), keep), Region(("blocks.3", "blocks.4"), keep)))
        for keep in (*KEPT_OPS, *ONE_BY_ONE)
    },
}


def run(model: nn.Module, inputs: list[Tensor], dtype: torch.dtype | None) -> tuple[Any, ...]:
    """Loss, gradients, and the random number that comes next."""
    model.zero_grad()
    torch.manual_seed(1)
    with torch.autocast("cpu", dtype or torch.bfloat16, enabled=dtype is not None):
        loss = model(*inputs)
    loss.backward()
    gradients = [p.grad.clone() for p in model.parameters() if p.grad is not None]
    return loss.item(), torch.rand(1).item(), gradients


@pytest.fixture
def seven() -> tuple[nn.Module, list[Tensor]]:
    torch.manual_seed(0)
    tokens = torch.randint(0, 200, (4, 16))
    return Seven(), [tokens, tokens.roll(1)]


@pytest.mark.parametrize("name", PLANS)
@pytest.mark.parametrize("dtype", [None, torch.bfloat16])
def test_loss_gradients_and_random_numbers_are_the_same_to_the_bit(
    seven: tuple[nn.Module, list[Tensor]], name: str, dtype: torch.dtype | None
) -> None:
    model, inputs = seven
    plain = run(model, inputs, dtype)
    with memgraph.apply_checkpoints(model, PLANS[name]):
        planned = run(model, inputs, dtype)
    assert planned[:2] == plain[:2]
    assert len(planned[2]) == len(plain[2]) and all(map(torch.equal, planned[2], plain[2]))


def test_less_is_kept(seven: tuple[nn.Module, list[Tensor]]) -> None:
    """Bytes that autograd saves in a forward: with a region of all seven blocks, hardly more than the head's."""
    model, inputs = seven

    def saved() -> int:
        sizes: dict[int, int] = {}

        def pack(tensor: Tensor) -> Tensor:
            sizes[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            model(*inputs)
        return sum(sizes.values())

    before = saved()
    with memgraph.apply_checkpoints(model, PLANS["a region of all"]):
        assert saved() < before / 3


def test_it_is_undone(seven: tuple[nn.Module, list[Tensor]]) -> None:
    model, _ = seven
    before = {name: dict(vars(module)) for name, module in model.named_modules()}
    applied = memgraph.apply_checkpoints(model, PLANS["regions"])
    assert "forward" in vars(model.get_submodule("blocks.1"))
    applied.undo()
    applied.undo()
    assert {name: dict(vars(module)) for name, module in model.named_modules()} == before


def test_a_forward_of_its_own_comes_back(seven: tuple[nn.Module, list[Tensor]]) -> None:
    model, inputs = seven
    block = model.get_submodule("blocks.0")
    own = block.forward
    block.forward = lambda *args: own(*args)  # type: ignore[method-assign]
    mine = block.forward
    with memgraph.apply_checkpoints(model, PLANS["singles"]):
        model(*inputs)
    assert vars(block)["forward"] is mine


def test_an_unknown_module_leaves_the_model_as_it_was(seven: tuple[nn.Module, list[Tensor]]) -> None:
    model, _ = seven
    with pytest.raises(UsageError, match=r"unknown module 'blocks\.9': did you mean"):
        memgraph.apply_checkpoints(model, Plan((Region(("blocks.0",)), Region(("blocks.9",)))))
    assert "forward" not in vars(model.get_submodule("blocks.0"))
    with pytest.raises(UsageError, match="no loss_chunks"):
        memgraph.apply_checkpoints(model, Plan((), 8))


def test_modules_that_do_not_follow_each_other_are_refused(seven: tuple[nn.Module, list[Tensor]]) -> None:
    model, inputs = seven
    plan = Plan((Region(("blocks.1", "blocks.3")),))
    with memgraph.apply_checkpoints(model, plan):
        pass
    with memgraph.apply_checkpoints(model, Plan((Region(("blocks.3", "blocks.1")),))), pytest.raises(MemgraphError):
        model(*inputs)
    run(model, inputs, None)  # no hook is left open


def test_a_module_that_fails_leaves_no_hook_open(seven: tuple[nn.Module, list[Tensor]]) -> None:
    model, inputs = seven
    plain = run(model, inputs, None)
    with memgraph.apply_checkpoints(model, PLANS["a region of all"]):
        block = model.get_submodule("blocks.4.up")
        block.register_forward_pre_hook(_fail_once())
        with pytest.raises(ValueError, match="broken off"):
            model(*inputs)
        again = run(model, inputs, None)
    assert again[0] == plain[0] and all(map(torch.equal, again[2], plain[2]))


def _fail_once() -> Any:
    calls: list[int] = []

    def hook(*_: Any) -> None:
        calls.append(1)
        if len(calls) == 1:
            raise ValueError("broken off")

    return hook


def test_without_gradients_nothing_is_wrapped(seven: tuple[nn.Module, list[Tensor]]) -> None:
    model, inputs = seven
    model.eval()
    expected = model(*inputs)
    with memgraph.apply_checkpoints(model, PLANS["regions"]), torch.no_grad():
        assert torch.equal(model(*inputs), expected)


def test_a_plan_comes_from_its_file(seven: tuple[nn.Module, list[Tensor]], tmp_path: Path) -> None:
    model, _ = seven
    PLANS["regions"].save(tmp_path / "plan.json")
    with memgraph.apply_checkpoints(model, tmp_path / "plan.json"):
        assert "forward" in vars(model.get_submodule("blocks.5"))


def test_two_towers_at_once() -> None:
    torch.manual_seed(0)
    model, inputs = Towers(), [torch.randn(2, 8, 32), torch.randn(2, 8, 64)]
    plain = run(model, inputs, None)
    plan = Plan((Region(("left.0",)), Region(("right.1",), "matmuls"), Region(("right.3",))))
    with memgraph.apply_checkpoints(model, plan):
        planned = run(model, inputs, None)
    assert planned[:2] == plain[:2] and all(map(torch.equal, planned[2], plain[2]))
