"""Inference tensors and others under `torch.inference_mode`, as CPU PyTorch has them."""

from __future__ import annotations

import warnings
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

import memgraph

VIEWS: list[Callable[[Tensor], Tensor]] = [
    lambda x: x.detach(),
    lambda x: x.view(6),
    lambda x: x[0],
    lambda x: x.t(),
    lambda x: x.expand(4, 2, 3),
    lambda x: x.unbind()[1],
    lambda x: x.contiguous(),
    lambda x: x.to(x.dtype),
    lambda x: x.clone(),
    lambda x: x + 1,
    lambda x: x.add_(1),
    lambda x: x.split(1)[0],
]


def kinds(device: str) -> list[object]:
    """Of normal and inference tensors, inside and outside, in both orders: what each op's result is, or its refusal."""
    found: list[object] = []
    for first in (True, False):
        for op in VIEWS:
            normal = torch.zeros(2, 3, device=device)
            with torch.inference_mode():
                inference = torch.zeros(2, 3, device=device)
                both = (normal, inference) if first else (inference, normal)
                found += [told(op, tensor) for tensor in both]
            found += [told(op, tensor) for tensor in both]
    return found


def told(op: Callable[[Tensor], Tensor], tensor: Tensor) -> object:
    try:
        result = op(tensor)
    except RuntimeError as error:
        return str(error).partition(".")[0]
    return result.is_inference(), result.requires_grad, tuple(result.shape), result.stride()


def test_results_are_inference_tensors_where_cpu_torch_has_them() -> None:
    with memgraph.virtual_gpu("rtx3090"):
        found = kinds("cuda")
    assert found == kinds("cpu")


def test_a_metrics_state_is_detached_after_an_inference_result() -> None:
    with memgraph.virtual_gpu("rtx3090"):
        state = torch.zeros(3, device="cuda")
        with torch.inference_mode():
            assert (state + 1).detach().is_inference()
            assert not state.detach().is_inference()


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_a_model_evaluated_between_steps_trains_on(mode: Callable[[], object]) -> None:
    def run(device: str) -> list[bool]:
        model = torch.nn.Sequential(torch.nn.Linear(4, 4), torch.nn.BatchNorm1d(4), torch.nn.Dropout(0.1)).to(device)
        seen = []
        for _ in range(2):
            model.train()(torch.zeros(3, 4, device=device)).sum().backward()
            with mode():  # type: ignore[attr-defined]
                seen.append(model.eval()(torch.zeros(3, 4, device=device)).is_inference())
        return seen

    with warnings.catch_warnings(), memgraph.virtual_gpu("rtx3090"):
        found = run("cuda")
    assert found == run("cpu")
