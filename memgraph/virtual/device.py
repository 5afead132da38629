"""The virtual CUDA device as a context: after it, the process is as it was before, but for a guard that lets autograd
look at tensors that outlive it (`LeftGuard` in device.cpp).

Three kinds of machine:
- a CPU-only build of torch, or a CUDA build without a visible GPU: the shim answers for the device (`shim.py`);
- a machine with a GPU: torch's own device answers, and the shim is never loaded.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch
from torch._subclasses import fake_tensor

from memgraph.errors import ShimError, UsageError
from memgraph.virtual import shim
from memgraph.virtual.patches import replaced

_active = False
_shimmed = False


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


def is_shimmed() -> bool:
    """Whether the shim answers now, rather than a card."""
    return _shimmed


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
