"""The virtual CUDA device as a context: after it, the process is as it was before.

Three kinds of machine:
- a CPU-only build of torch, or a CUDA build without a visible GPU: the shim answers for the device (`shim.py`);
- a machine with a GPU: torch's own device answers, and the shim is never loaded.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from memgraph.errors import ShimError, UsageError
from memgraph.virtual import shim

_active = False


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


@contextlib.contextmanager
def _shim() -> Iterator[None]:
    library = shim.load()
    if library.memgraph_install() != 0:
        raise ShimError("the virtual device is in place already; it was not removed by whoever put it there")
    try:
        _ensure_engine_thread(library.memgraph_start_engine_thread)
        yield
    finally:
        library.memgraph_uninstall()


def _ensure_engine_thread(start: object) -> None:
    """Let autograd have its thread for the device.

    The engine counts devices once, at the process's first backward (torch/csrc/autograd/engine.cpp,
    `initialize_device_threads_pool`). If that was before the virtual device came, a backward on it fails an assertion,
    and the thread is started by hand. Seen on torch 2.13+cpu and 2.15+cu132.
    """
    try:
        _smallest_backward()
    except RuntimeError as error:
        if "device_ready_queues_" not in str(error) or not callable(start) or start() != 1:
            raise ShimError(
                f"torch {torch.__version__}'s autograd engine does not accept the virtual device: {error}"
            ) from error
        _smallest_backward()


def _smallest_backward() -> None:
    with FakeTensorMode(), torch.enable_grad(), torch.inference_mode(False):
        torch.empty((), device="cuda", requires_grad=True).backward()
