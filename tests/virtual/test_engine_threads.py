"""Autograd's threads for the device are at rest after a block, so that none is at work when the process ends."""

from __future__ import annotations

import contextlib

import pytest
import torch

import memgraph
from memgraph.virtual import engine_threads
from tests.virtual.test_after_the_block import output_of

without_gpu = pytest.mark.skipif(torch.cuda.is_available(), reason="a real GPU is visible, so the shim is not used")


@without_gpu
def test_every_thread_is_through_with_its_start() -> None:
    with memgraph.virtual_gpu("rtx3090"):
        torch.zeros(3, device="cuda", requires_grad=True).sum().backward()
    assert sorted(engine_threads._tasks) == list(range(16))


def test_what_a_thread_drops_last_is_held_by_another_in_cpp() -> None:
    """It asks for the interpreter when one reference is left, that of the Python object."""
    with memgraph.virtual_gpu("rtx3090"):
        torch.zeros(3, device="cuda", requires_grad=True).sum().backward()
    task = engine_threads._tasks[0]
    assert task.leaf._use_count() >= 3  # type: ignore[attr-defined]  # its own, and its square's twice
    assert task.gradient._use_count() >= 2  # type: ignore[attr-defined]  # its own, and the product's


@pytest.mark.parametrize("error", [None, ZeroDivisionError, SystemExit])
def test_after_a_block_the_threads_are_at_rest(
    error: type[BaseException] | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each has done a task under no mode, however the last backward ended."""
    run, done = engine_threads._run, []

    def raising(_: torch.Tensor) -> None:
        if error is not None:
            raise error

    def counted(task: engine_threads._Task) -> None:
        run(task)
        done.append((task, torch.overrides._len_torch_function_stack()))

    with torch.device("cpu"), contextlib.suppress(ZeroDivisionError, SystemExit), memgraph.virtual_gpu("rtx3090"):
        x = torch.zeros(3, device="cuda", requires_grad=True)
        x.sum().backward()
        x.register_hook(raising)
        monkeypatch.setattr(engine_threads, "_run", counted)
        x.sum().backward()
    tasks = list(engine_threads._tasks.values())
    assert done[-len(tasks) :] == [(task, 0) for task in tasks] and len(done) == len(tasks) + 1


def test_a_fork_leaves_its_block_without_them() -> None:
    program = """
        import os, torch, memgraph
        with memgraph.virtual_gpu("rtx3090"):
            torch.zeros(3, device="cuda", requires_grad=True).sum().backward()
            child = os.fork()
        if child == 0:
            os._exit(7)
        print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
    """
    assert output_of(program) == ["7"]


def test_the_first_backward_of_a_process_may_be_inside_torch_func() -> None:
    """Per-sample gradients, as differentially private training takes them before anything else."""
    program = """
        import torch, memgraph
        from torch.func import grad, vmap
        with memgraph.virtual_gpu("rtx3090"):
            weight, rows = torch.zeros(4, device="cuda"), torch.zeros(3, 4, device="cuda")
            print(vmap(grad(lambda w, x: (w * x).sum()), (None, 0))(weight, rows).shape)
            weight.requires_grad_()
            (weight * rows).sum().backward()
            print(weight.grad.shape)
        """
    assert output_of(program) == ["torch.Size([3, 4])", "torch.Size([4])"]
