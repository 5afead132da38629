"""The virtual CUDA device as a context: after it, the process is as it was before, but for a guard that lets autograd
look at tensors that outlive it (`LeftGuard` in device.cpp).

Three kinds of machine:
- a CPU-only build of torch, or a CUDA build without a visible GPU: the shim answers for the device (`shim.py`);
- a machine with a GPU: torch's own device answers, and the shim is never loaded.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Iterator

import torch
from torch._subclasses import fake_tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import _disable_current_modes

from memgraph.errors import ShimError, UsageError
from memgraph.virtual import shim
from memgraph.virtual.patches import replaced

_active = False
_shimmed = False
"""Whether the shim answers, rather than a card."""


def has_real_gpu() -> bool:
    """Whether torch sees a GPU that is there. Must not be asked inside the virtual device."""
    return torch.cuda.is_available()


@contextlib.contextmanager
def virtual_device() -> Iterator[None]:
    """While open, fake tensors on `cuda:0` go through autograd, autocast and optimizers on any machine.

    Raises:
        UsageError: one is open already.
        ShimError: the library could not be built or loaded.
    """
    global _active
    if _active:
        raise UsageError("a virtual GPU is open already: leave its `with` block first")
    _active = True
    try:
        with contextlib.nullcontext() if has_real_gpu() else _shim():
            yield
    finally:
        _active = False


def select_device(index: int, count: int) -> None:
    """Tell torch's C++ which device this thread uses, and how many there are; a GPU that is there knows it."""
    if _shimmed:
        shim.load().memgraph_set_device(index, count)


@contextlib.contextmanager
def _shim() -> Iterator[None]:
    global _shimmed
    library = shim.load()
    if library.memgraph_install() != 0:
        raise ShimError("the virtual device is in place already; it was not removed by whoever put it there")
    _shimmed = True
    try:
        with replaced(fake_tensor, "init_gpu_context", _nothing):
            yield
    finally:
        library.memgraph_set_device(0, 1)
        _shimmed = False
        library.memgraph_uninstall()


def _nothing(_device: torch.device) -> None:
    """torch 2.11 makes a real tensor before the first fake one on a device that is available, so that there is a CUDA
    context; later versions mean to, and compare a device with its name."""


def ensure_engine_thread() -> None:
    """Let autograd have its thread for the device, where the shim answers for it. To be called before the first
    backward on it, and no earlier: a process whose engine has such a thread cannot run a backward in its forks any
    more (`track_bad_autograd_forks`, torch/csrc/autograd/engine.cpp).

    The engine counts devices once, at the process's first backward (torch/csrc/autograd/engine.cpp,
    `initialize_device_threads_pool`). If that was before the virtual device came, a backward on it fails an assertion,
    and the thread is started by hand. Seen on torch 2.13+cpu and 2.15+cu132.
    """
    if not _shimmed:
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


def settle_engine_thread() -> None:
    """Let autograd's thread for the device give back what it holds of the backward that has just ended: results, and
    nodes with what they saved (torch/csrc/autograd/engine.cpp: `thread_main` wakes the caller before its own references
    are gone, and to drop those of a tensor with a Python object it waits for the interpreter). On a card it is done at
    once; here ops of the caller's would come before. The thread takes its next task when it is through with the last.
    """
    leaf, gradient = _smallest_graph(torch.cuda.current_device())
    with _disable_current_modes():
        torch.autograd.Variable._execution_engine.run_backward(
            (leaf,), (gradient,), False, False, (leaf,), accumulate_grad=False
        )


@functools.cache
def _smallest_graph(index: int) -> tuple[torch.Tensor, torch.Tensor]:
    """A tensor on the device that is its own result, and the gradient of that."""
    device = torch.device("cuda", index)
    with _disable_current_modes(), FakeTensorMode(), torch.enable_grad(), torch.inference_mode(False):
        return torch.empty((), device=device, requires_grad=True), torch.empty((), device=device)


def _smallest_backward() -> None:
    with _disable_current_modes(), FakeTensorMode(), torch.enable_grad(), torch.inference_mode(False):
        torch.empty((), device="cuda", requires_grad=True).backward()
