"""The threads of autograd's engine, one a device: they are there, and at rest after a backward and after the block.

A thread that wants the interpreter while that is being finalised is ended by it (`take_gil`, Python/ceval_gil.h, up to
3.13), and C++ that is ended inside a destructor aborts the process ("terminate called without an active exception").
The engine's threads do: the caller of a backward is woken first, and what the thread holds of it is dropped afterwards
(`thread_main`, torch/csrc/autograd/engine.cpp). On a busy machine that may be when the process ends: seen with torch
2.13, once in thirty processes.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from importlib import import_module
from typing import Any, NamedTuple

import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.overrides import _len_torch_function_stack, _pop_mode_temporarily  # type: ignore[attr-defined]
from torch.utils._python_dispatch import _disable_current_modes

from memgraph.errors import ShimError
from memgraph.virtual import shim
from memgraph.virtual.device import is_shimmed

_THREADS = 16
"""As many as the shim has devices: `kDevices` in device.cpp."""


class _Task(NamedTuple):
    """The least that a thread can be asked to do, so that nothing of it is left to drop."""

    leaf: torch.Tensor
    """On the device, and its own result."""
    gradient: torch.Tensor
    holder: torch.Tensor
    """Its graph holds the other two in C++: a thread that lets go of them is not the last, and needs no interpreter."""


def ensure_engine_thread() -> None:
    """Let autograd have its thread for the device, where the shim answers for it. To be called before the first
    backward on it, and no earlier: a process whose engine has such a thread cannot run a backward in its forks any
    more (`track_bad_autograd_forks`, torch/csrc/autograd/engine.cpp).

    The engine counts devices once, at the process's first backward (torch/csrc/autograd/engine.cpp,
    `initialize_device_threads_pool`). If that was before the virtual device came, a backward on it fails an assertion,
    and the thread is started by hand. Seen on torch 2.13+cpu and 2.15+cu132.
    """
    if not is_shimmed():
        return
    start: object = shim.load().memgraph_start_engine_thread
    try:
        _smallest_backward()
    except RuntimeError as error:
        if "device_ready_queues_" not in str(error) or not callable(start) or start() != 1:
            raise ShimError(
                f"torch {torch.__version__}'s autograd engine does not accept the virtual device: {error}"
            ) from error
        _smallest_backward()
    _begin()


_begun_in = 0
"""The process in which they are through with their start: a fork of it has none of the threads, and gets none."""


def _begin() -> None:
    """Every thread is through with its start, for which it needs the interpreter."""
    global _begun_in
    if _begun_in != os.getpid():
        for index in range(_THREADS):
            _run(_task(index))
        _begun_in = os.getpid()


def outside_functorch() -> contextlib.AbstractContextManager[Any]:
    """No transform is in force while it is open: `torch.func.grad` may be what asks for a backward, and inside of it
    torch runs no other."""
    if torch._C._functorch.peek_interpreter_stack() is None:
        return contextlib.nullcontext()
    cleared: Any = import_module("torch._functorch.pyfunctorch").temporarily_clear_interpreter_stack
    return cleared()  # type: ignore[no-any-return]


def settle_engine_thread() -> None:
    """Let autograd's thread for the device give back what it holds of the backward that has just ended: results, and
    nodes with what they saved (torch/csrc/autograd/engine.cpp: `thread_main` wakes the caller before its own references
    are gone, and to drop those of a tensor with a Python object it waits for the interpreter). On a card it is done at
    once; here ops of the caller's would come before. The thread takes its next task when it is through with the last.
    """
    _run(_task(torch.cuda.current_device()))


_tasks: dict[int, _Task] = {}
"""By the number of the device, of those whose threads were used."""


def _task(index: int) -> _Task:
    if index not in _tasks:
        device = torch.device("cuda", index)
        with _disable_current_modes(), FakeTensorMode(), torch.enable_grad(), torch.inference_mode(False):
            leaf, gradient = torch.empty((), device=device, requires_grad=True), torch.empty((), device=device)
            _tasks[index] = _Task(leaf, gradient, leaf * leaf * gradient)
    return _tasks[index]


def _run(task: _Task) -> None:
    with _disable_current_modes():
        torch.autograd.Variable._execution_engine.run_backward(
            (task.leaf,), (task.gradient,), False, False, (task.leaf,), accumulate_grad=False
        )


@contextlib.contextmanager
def engine_threads_rest() -> Iterator[None]:
    """When it closes, no thread of the engine has anything of Python's left to drop: it is through with what it did,
    and of the last task others hold everything. A thread may also be the last to hold a mode that was in force at the
    task's beginning, so none is."""
    try:
        yield
    finally:
        if os.getpid() == _begun_in:
            with contextlib.ExitStack() as stack:
                for _ in range(_len_torch_function_stack()):
                    stack.enter_context(_pop_mode_temporarily())
                for task in _tasks.values():
                    _run(task)


def _smallest_backward() -> None:
    with _disable_current_modes(), FakeTensorMode(), torch.enable_grad(), torch.inference_mode(False):
        torch.empty((), device="cuda", requires_grad=True).backward()
