"""What a training step adds to the lifetimes of eager PyTorch: autocast's copies, optimizers' state and temporaries,
checkpoints that compute again, workspaces of libraries. `float` is 4 bytes.
"""

from __future__ import annotations

import functools
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

import memgraph
from memgraph.trace import Category, Role, Trace
from tests.capture.watching import card, check, left, outputs_of, short, story, the_output_of

# Autocast.


def test_autocast_keeps_its_copy_of_a_weight_until_it_ends() -> None:
    """The bf16 copy of a 16 × 16 weight is 512 bytes. It is made once, and outlives everything that used it."""
    with card() as gpu:
        layer = nn.Linear(16, 16, bias=False).cuda()
        x = torch.zeros(4, 16, device="cuda", dtype=torch.bfloat16)
        with torch.autocast("cuda", dtype=torch.bfloat16):
            layer(x)
            layer(x)
            x.neg()
        x.neg()
    assert story(gpu.trace, "forward") == [
        "+_to_copy 512",
        *["+mm 128", "-mm 128"] * 2,  # 4 × 16 × 2
        "+neg 128",
        "-neg 128",
        "-_to_copy 512",
        "+neg 128",
        "-neg 128",
    ]


def test_autocast_without_its_cache_copies_a_weight_every_time() -> None:
    with card() as gpu:
        layer = nn.Linear(16, 16, bias=False).cuda()
        x = torch.zeros(4, 16, device="cuda", dtype=torch.bfloat16)
        with torch.autocast("cuda", dtype=torch.bfloat16, cache_enabled=False), torch.no_grad():
            layer(x)
            layer(x)
    assert story(gpu.trace, "forward") == ["+_to_copy 512", "+mm 128", "-_to_copy 512", "-mm 128"] * 2


# Optimizers. Parameters of 1000 and 3000 floats, P = 16,000 bytes: with gradients and two moments 4 P = 64,000.


def adamw_peak(**form: Any) -> Trace:
    """One step of AdamW on two parameters of 4,000 and 12,000 bytes."""
    with card() as gpu:
        parameters = [torch.zeros(n, device="cuda", requires_grad=True) for n in (1000, 3000)]
        optimizer = torch.optim.AdamW(parameters, lr=0.1, **form)
        for parameter in parameters:
            parameter.grad = torch.zeros_like(parameter)
        optimizer.step()
    check(gpu.trace)
    return gpu.trace


def test_foreach_is_the_default_and_takes_one_temporary_of_all_parameters() -> None:
    trace = adamw_peak()
    assert story(trace, "optimizer")[-4:] == [
        "+_foreach_sqrt 4000", "+_foreach_sqrt 12000", "-_foreach_sqrt 12000", "-_foreach_sqrt 4000",
    ]  # fmt: skip
    assert trace.peak.requested == 5 * 16_000
    assert trace.peak.op == "aten._foreach_sqrt.default"


def test_a_loop_takes_the_temporaries_of_one_parameter_at_a_time() -> None:
    """The square root and its quotient, 2 × 12,000, while the quotient of the parameter before is still a variable."""
    trace = adamw_peak(foreach=False)
    assert trace.peak.requested == 64_000 + 2 * 12_000 + 4_000


def test_fused_takes_none_but_keeps_its_step_count_on_the_device() -> None:
    trace = adamw_peak(fused=True)
    assert trace.peak.requested == 64_000 + 2 * 4


def test_parameters_gradients_and_state_are_told_apart() -> None:
    with card() as gpu:
        model = nn.Linear(10, 20).cuda()
        optimizer = torch.optim.AdamW(model.parameters())
        model(torch.zeros(4, 10).cuda()).sum().backward()
        optimizer.step()
    by_category = {
        category: sorted((buffer.name, buffer.size) for buffer in gpu.trace.buffers if buffer.category is category)
        for category in (Category.PARAMETER, Category.GRADIENT, Category.OPTIMIZER)
    }
    assert by_category == {
        Category.PARAMETER: [("bias", 80), ("weight", 800)],
        Category.GRADIENT: [("gradient of bias", 80), ("gradient of weight", 800)],
        Category.OPTIMIZER: [
            ("exp_avg of bias", 80), ("exp_avg of weight", 800),
            ("exp_avg_sq of bias", 80), ("exp_avg_sq of weight", 800),
        ],
    }  # fmt: skip


def test_gradients_are_known_without_an_optimizer() -> None:
    with card() as gpu:
        model = nn.Sequential(nn.Linear(10, 20)).cuda()
        model(torch.zeros(4, 10).cuda()).sum().backward()
    gradients = [(b.name, b.size) for b in gpu.trace.buffers if b.category is Category.GRADIENT]
    assert gradients == [("gradient of 0.weight", 800), ("gradient of 0.bias", 80)]


# Checkpointing.


class Chain(nn.Module):
    """exp, sin, cos: all but the last keep what they need."""

    def forward(self, x: Tensor) -> Tensor:
        return x.exp().sin().cos()


@pytest.mark.parametrize("reentrant", [False, True])
def test_a_checkpoint_keeps_nothing_and_computes_again(reentrant: bool) -> None:
    with card() as gpu:
        block = Chain()
        w = torch.zeros(100, device="cuda", requires_grad=True)
        y = checkpoint(block, w, use_reentrant=reentrant)
        forward = story(gpu.trace)
        y.sum().backward()
    assert forward == ["+zeros 400", "+exp 400", "+sin 400", "-exp 400", "+cos 400", "-sin 400"]
    assert len(outputs_of(gpu.trace, "exp")) == 2
    # exp's result and sin's are made again; without re-entry the recomputation stops before cos, which nothing needs.
    phases = [gpu.trace.phases[gpu.trace.ops[gpu.trace.buffers[b].op].phase].name for b in outputs_of(gpu.trace, "exp")]
    assert phases == ["forward", "backward"]
    cosines = [op for op in gpu.trace.ops if op.name == "aten.cos.default"]
    assert len(cosines) == (3 if reentrant else 2)  # forward, again, and sin's derivative
    assert left(gpu.trace) == ["zeros 400", "cos 400", "mul 400"]
    check(gpu.trace)


# Libraries.


def test_a_thread_that_multiplies_takes_a_workspace_once() -> None:
    """Forward's thread and autograd's: 4096 × 2 + 16 × 8 KiB = 8,519,680 bytes each before Hopper."""
    with card() as gpu:
        layer = nn.Linear(8, 8, bias=False).cuda()
        x = torch.zeros(2, 8, device="cuda")
        for _ in range(3):
            layer(layer(x)).sum().backward()
    libraries = [b.size for b in gpu.trace.buffers if b.role is Role.LIBRARY]
    assert libraries == [8_519_680, 8_519_680]


def test_what_an_op_takes_inside_is_gone_when_it_ends() -> None:
    """A layer norm of a transposed tensor copies it first; the copy, 64 × 32 × 4 = 8192 bytes, goes with the op."""
    with card() as gpu:
        x = torch.zeros(32, 64, device="cuda").t()
        y = nn.functional.layer_norm(x, (32,)).exp()
    trace = gpu.trace
    (copy,) = [index for index, buffer in enumerate(trace.buffers) if buffer.role is Role.TEMPORARY]
    assert trace.buffers[copy].size == 8192
    assert trace.lives[copy].stop < trace.lives[the_output_of(trace, "exp")].start
    assert y.shape == (64, 32)


class Doubled(nn.Module):
    """An op in a module's own forward, and one in a module of torch's below it."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Linear(16, 16)

    def forward(self, x: Tensor) -> Tensor:
        return self.inner((x * 2).exp()).tanh()


def test_what_a_checkpoint_computes_again_is_told_from_its_backward() -> None:
    """The checkpoint calls `forward` itself, so that no module is called in the recomputation but the inner one."""
    with card() as gpu:
        model = nn.Sequential(Doubled(), Doubled()).cuda()
        for part in model:
            part.forward = functools.partial(checkpoint, part.forward, use_reentrant=False)
        model(torch.zeros(4, 16, device="cuda", requires_grad=True)).sum().backward()
    trace = gpu.trace
    (backward,) = (number for number, phase in enumerate(trace.phases) if phase.name == "backward")
    again = [(short(op.name), op.module) for op in trace.ops if op.phase == backward and op.forward < 0 and op.source]
    first = [("mul", "0"), ("exp", "0"), ("t", "0.inner"), ("addmm", "0.inner"), ("tanh", "0")]
    second = [(name, module.replace("0", "1")) for name, module in first]
    assert [row for row in again if row[0] != "detach"] == [*second, *first]


@pytest.mark.parametrize("of", ["mask", "numbers"])
def test_the_gradient_of_an_index_is_put_into_its_zeros(of: str) -> None:
    """As recorded on an H200: no copy of the zeros and no look at the indices, of which a call of its own makes both.
    192 · 192 floats are 147,456 bytes."""
    with memgraph.virtual_gpu("h200") as gpu:
        x = torch.randn(192, 192, device="cuda", requires_grad=True)
        chosen = torch.eye(192, dtype=torch.bool, device="cuda") if of == "mask" else torch.arange(192, device="cuda")
        x[chosen].square().sum().backward()
        assert x.grad is not None and x.grad.shape == (192, 192)
        steps = [(gpu.recorder.ops[buffer.op].name, buffer.size) for buffer in gpu.trace.buffers]
        torch.index_put(x.detach(), (chosen,), x.new_ones(()), accumulate=True)
        again = [(gpu.recorder.ops[buffer.op].name, buffer.size) for buffer in gpu.trace.buffers][len(steps) :]
    assert "aten.index_put.default" not in dict(steps)
    assert [size for name, size in steps if name == "aten.new_zeros.default"] == [147_456]
    assert [size for name, size in steps if name == "aten._index_put_impl_.default" and size > 100_000] == []
    assert ("aten.index_put.default", 147_456) in again


def test_the_gradient_of_an_index_on_the_host_is_torchs_own() -> None:
    with memgraph.virtual_gpu("h200"):
        x = torch.arange(6.0, requires_grad=True)
        x[torch.tensor([1, 1, 4])].sum().backward()
        assert x.grad is not None and x.grad.tolist() == [0, 2, 0, 0, 1, 0]
