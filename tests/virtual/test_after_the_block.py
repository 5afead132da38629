"""What is left of a virtual GPU: its tensors may be touched, entered again or forked over, and nothing aborts."""

from __future__ import annotations

import subprocess
import sys
import textwrap
from collections import Counter

import pytest
import torch

import memgraph
from memgraph.errors import UsageError

without_gpu = pytest.mark.skipif(torch.cuda.is_available(), reason="a real GPU is visible, so the shim is not used")


def output_of(program: str) -> list[str]:
    """The lines that a fresh interpreter prints; an abort would end the tests' own."""
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", textwrap.dedent(program)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
    return done.stdout.splitlines()


LEFT = """
    import copy, io, pickle, torch, memgraph
    from torch import nn
    with memgraph.virtual_gpu("rtx3090"):
        model = nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3), nn.LSTM(3, 4)).cuda()
        optimizer = torch.optim.Adam(model.parameters())
        x = torch.randn(2, 3, device="cuda", requires_grad=True)
        model(x)[0].sum().backward(); optimizer.step()
        loss, half = model(x)[0].sum(), x.half()
        places = torch.zeros(2, 3, dtype=torch.long, device="cuda")
        sparse = torch.sparse_coo_tensor(places, torch.zeros(3, device="cuda"), (3, 3))
    weight = model[0].weight
"""

REFUSED = """
    model(torch.randn(2, 3)); model(x); weight * 2; weight.t(); weight.clone(); weight.view(-1); weight[0]
    weight + half; loss.backward(); loss.item(); float(loss); bool(loss > 0); loss.tolist(); loss.cpu()
    weight.to("cpu"); half.float()
    optimizer.step(); optimizer.zero_grad(False)
    weight.data.add_(1); weight.grad.norm(); sparse.to_dense(); sparse * 2
    model.cpu(); model.half(); torch.save(model.state_dict(), io.BytesIO()); pickle.dumps(weight); weight.detach() + 1
    torch.no_grad()(lambda: model(x))(); torch.autograd.grad(loss, [x]); nn.utils.clip_grad_norm_(model.parameters(), 1)
    torch.cat([x, x]); torch.stack([torch.zeros(2, 3), x]); torch.zeros(2, 3) + x; torch.zeros(2, 3).copy_(x); x.sum()
    nn.functional.layer_norm(x, (3,)); nn.functional.linear(x, weight); torch._foreach_add([x], 1); torch.zeros_like(x)
    x.requires_grad_().pow(2); torch.func.grad(lambda t: (t * t).sum())(x); torch.vmap(torch.sin)(x)
"""
ANSWERED = """
    repr(weight); weight.shape; weight.numel(); weight.device; weight.dtype; weight.grad.shape; weight.detach().shape
    len(model.state_dict()); sum(p.numel() * p.element_size() for p in model.parameters()); weight.stride()
    loss.grad_fn; weight.untyped_storage().nbytes(); x.is_leaf; x.is_cuda; weight.is_contiguous()
"""


def uses(text: str) -> list[str]:
    return [use.strip() for line in text.strip().splitlines() for use in line.split(";")]


@without_gpu
def test_a_tensor_that_outlives_its_gpu_is_refused_in_a_line() -> None:
    program = textwrap.dedent(LEFT) + textwrap.dedent("""
        for use in {uses!r}:
            try:
                eval(use)
                print(use, "went on")
            except Exception as error:
                while error.__cause__ is not None:
                    error = error.__cause__
                print(type(error).__name__, str(error).replace(chr(10), " | "))
    """).format(uses=uses(REFUSED))
    lines = output_of(program)
    assert len(lines) == len(uses(REFUSED))
    for line, use in zip(lines, uses(REFUSED), strict=True):
        assert line.startswith("UsageError ") and "virtual GPU is closed" in line and " | " not in line, (use, line)


@without_gpu
def test_its_shape_is_there_and_the_process_ends_well() -> None:
    program = textwrap.dedent(LEFT) + "\n".join(["for use in " + repr(uses(ANSWERED)) + ":", "    eval(use)"])
    assert output_of(program + "\nprint('went on')\ndel model, optimizer, loss, x\nprint(torch.zeros(2).sum())") == [
        "went on", "tensor(0.)",
    ]  # fmt: skip


@without_gpu
def test_nothing_new_can_be_made_on_a_device_that_is_gone() -> None:
    program = """
        import torch, memgraph
        with memgraph.virtual_gpu("rtx3090"):
            torch.zeros(1, device="cuda")
        for make in (lambda: torch.zeros(1, device="cuda"), lambda: torch.zeros(1).cuda(),
                     lambda: torch.Stream(device="cuda"), lambda: torch.zeros(1).pin_memory()):
            try:
                make()
            except Exception:
                continue
            print("made")
        print(torch.cuda.is_available(), torch.accelerator.is_available())
    """
    assert output_of(program) == ["False False"]


# A second block.


def test_a_tensor_of_an_earlier_gpu_is_counted_in_the_next() -> None:
    with memgraph.virtual_gpu("rtx3090"):
        weight = torch.zeros(1000, device="cuda", requires_grad=True)
        gone, idle = torch.zeros(5000, device="cuda"), torch.zeros(7000, device="cuda")
        view = weight.detach()[:10]
    del gone
    with memgraph.virtual_gpu("rtx3090") as gpu:
        assert torch.cuda.memory_allocated() == 0
        (weight * 2).sum().backward()
        view.add_(1)
        # the weight and its gradient, 4,000 bytes each, and what nobody uses, 28,000; in blocks of 512
        assert torch.cuda.memory_allocated() == 2 * 4096 + 28160
    # what was left, the weight's double, the sum and its gradient (4 bytes each), the weight's gradient
    assert [buffer.size for buffer in gpu.trace.buffers] == [4000, 28000, 4000, 4, 4, 4000]
    assert gpu.trace.assumptions == ("what is left of an earlier virtual GPU is counted once a tensor of it is used",)
    assert idle.shape == (7000,)
    gpu.trace.self_check()


def test_a_model_that_is_trained_on_in_a_second_block_is_there_as_what_it_was() -> None:
    with memgraph.virtual_gpu("rtx3090"):
        model = torch.nn.Linear(512, 512).cuda()
        optimizer = torch.optim.Adam(model.parameters())
        model(torch.zeros(4, 512, device="cuda")).sum().backward()
        optimizer.step()
    with memgraph.virtual_gpu("rtx3090") as gpu:
        model(torch.zeros(4, 512, device="cuda")).sum().backward()
        optimizer.step()
    left = [buffer for buffer in gpu.trace.buffers if buffer.op == -1]
    weight, bias = 512 * 512 * 4, 512 * 4
    assert [(buffer.name, buffer.size) for buffer in left[:2]] == [("weight", weight), ("bias", bias)]
    counted = Counter((buffer.category.value, buffer.size) for buffer in left)
    assert counted == {
        ("parameters", weight): 1, ("parameters", bias): 1, ("gradients", weight): 1, ("gradients", bias): 1,
        ("optimizer state", weight): 2, ("optimizer state", bias): 2,
    }  # fmt: skip


def test_tensors_of_the_host_move_on_silently() -> None:
    with memgraph.virtual_gpu("rtx3090"):
        host = torch.zeros(1000, device="cuda").cpu()
    with memgraph.virtual_gpu("rtx3090") as gpu:
        moved = host.cuda()
    assert (moved.shape, gpu.trace.peak.requested, gpu.trace.assumptions) == ((1000,), 4000, ())


def test_a_gpu_is_entered_once() -> None:
    gpu = memgraph.virtual_gpu("rtx3090")
    with gpu:
        kept = torch.zeros(10, device="cuda")
        with pytest.raises(UsageError, match="entered before: make a new one"), gpu:
            pytest.fail("entered")
        assert (kept + 1).shape == (10,)  # and the first goes on
    with pytest.raises(UsageError, match="entered before: make a new one"), gpu:
        pytest.fail("entered")
    assert gpu.trace.peak.requested == 80


# Forks.


@without_gpu
@pytest.mark.parametrize("inside", ["pass", "torch.zeros(3, device='cuda') * 2", "torch.nn.Linear(3, 3).cuda()"])
def test_a_fork_after_a_block_without_backward_can_run_one_on_the_cpu(inside: str) -> None:
    program = f"""
        import os, torch, memgraph
        def train():
            model = torch.nn.Linear(3, 3)
            model(torch.ones(2, 3)).sum().backward()
            return model.bias.grad.tolist()
        train()
        with memgraph.virtual_gpu("rtx3090"):
            {inside}
        child = os.fork()
        if child == 0:
            try:
                print(train(), flush=True)
            finally:
                os._exit(0)
        os.waitpid(child, 0)
    """
    assert output_of(program) == ["[2.0, 2.0, 2.0]"]
