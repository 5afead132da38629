"""Parameters, buffers, gradients and inputs are called what they are."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import memgraph
from memgraph.analyze.peak import categories
from memgraph.analyze.strips import chart
from memgraph.trace import Category, Trace

MIB = 2**20


def held(trace: Trace) -> dict[str, int]:
    """Bytes at the peak by category."""
    return {str(row.category): row.bytes for row in categories(trace)}


@pytest.mark.parametrize("kind", [torch.optim.Adam, torch.optim.SGD])
def test_parameters_stay_parameters_when_the_optimizer_steps_in_a_hook(kind: type[torch.optim.Optimizer]) -> None:
    """Two weights of 4 MiB, four bias KiB each; the gradient of one at a time is alive."""
    with memgraph.virtual_gpu("h200") as gpu:
        net = nn.Sequential(nn.Linear(1024, 1024), nn.ReLU(), nn.Linear(1024, 1024)).cuda()
        optimizers = {p: kind([p], lr=1e-3, foreach=False) for p in net.parameters()}

        def hook(parameter: Tensor) -> None:
            optimizers[parameter].step()
            optimizers[parameter].zero_grad()

        for parameter in net.parameters():
            parameter.register_post_accumulate_grad_hook(hook)
        for _ in range(3):
            net(torch.randn(8, 1024, device="cuda")).sum().backward()
    found = held(gpu.trace)
    assert found["parameters"] == 2 * (4 * MIB + 4096)
    assert found["gradients"] <= 4 * MIB + 4096
    assert {phase.step for phase in gpu.trace.phases if phase.name == "backward"} == {1, 2, 3}
    assert {phase.name for phase in gpu.trace.phases} >= {"forward", "backward", "optimizer"}


def test_a_buffer_is_a_buffer() -> None:
    """A table of 16 MiB, a mean and a variance of 4 MiB each and a count; a weight and a bias of 4 MiB."""
    with memgraph.virtual_gpu("h200") as gpu:
        module = nn.BatchNorm1d(MIB).cuda()
        module.register_buffer("table", torch.zeros(4 * MIB, device="cuda"))
        module(torch.randn(2, MIB, device="cuda")).sum().backward()
    found = held(gpu.trace)
    assert found["buffers"] == 24 * MIB + 8
    assert found["parameters"] == 8 * MIB
    assert "table" in [buffer.name for buffer in gpu.trace.buffers if buffer.category is Category.BUFFER]


def attention(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return (q @ k.transpose(-1, -2)).softmax(-1) @ v


def test_what_is_computed_without_a_module_is_no_input() -> None:
    """Three inputs of 6 MiB; scores and weights of 96 MiB each and the result."""
    with memgraph.virtual_gpu("h200") as gpu:
        q, k, v = (torch.randn(1, 6, 2048, 128, device="cuda") for _ in range(3))
        scores = q @ k.transpose(-1, -2)
        weights = scores.softmax(-1)
        out = weights @ v
    assert held(gpu.trace)["inputs"] == 18 * MIB
    assert held(gpu.trace)["activations"] == (96 + 96 + 6) * MIB
    assert out.shape == v.shape


def test_what_a_batch_becomes_before_a_module_is_called_is_an_input_still() -> None:
    with memgraph.virtual_gpu("h200") as gpu:
        model = nn.Linear(1024, 1024).cuda()
        batch = torch.zeros(1024, 1024, dtype=torch.uint8).cuda()
        model(batch.float().div(255)).sum().backward()
    assert {b.category for b in gpu.trace.buffers if b.shape == (1024, 1024) and b.dtype == "uint8"} == {Category.INPUT}


def test_unknown_is_not_the_others_in_pictures() -> None:
    """What has no category is a band of its own, beside that of what is not told apart."""
    with memgraph.virtual_gpu("h200") as gpu:
        x = torch.randn(64, 64, device="cuda", requires_grad=True)
        for width in range(1, 40):
            F.gelu(x[:, :width]).sum().backward()
    unknown = {index for index in range(len(gpu.trace.buffers)) if index % 2}
    buffers = [b._replace(category=Category.UNKNOWN) if i in unknown else b for i, b in enumerate(gpu.trace.buffers)]
    trace = dataclasses.replace(gpu.trace, buffers=tuple(buffers))
    rests = [band for band in chart(trace, by="buffer", top=5).bands if band.rest]
    (others,) = (band for band in rests if band.category is None)
    (nobody_knows,) = (band for band in rests if band.category is Category.UNKNOWN)
    assert others.name == f"{len(others.buffers)} others"
    assert nobody_knows.name.endswith("unknown")
    assert set(nobody_knows.buffers) <= unknown
    assert not unknown & set(others.buffers)
