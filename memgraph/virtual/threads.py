"""Work on the virtual GPU from any thread, one op at a time.

A dispatch mode belongs to the thread that enters it (c10/core/impl/TorchDispatchModeTLS.h), and autograd hands it on
to its own threads. Those that Python starts, as pools, DataLoader's pinning thread and `DataParallel` do, begin without
it: here each enters it too. (`threading.Thread._bootstrap_inner` is what a new thread runs first, in Python 3.11 to
3.14.)
"""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Iterator
from typing import Any

import torch

from memgraph.virtual.patches import replaced

ONE_AT_A_TIME = threading.RLock()
"""Held while an op is followed: Python may go on with another thread between any two instructions."""


class Here(threading.local):
    """What of a `FakeTensorMode` belongs to the thread that runs; torch's own has it once for all.

    Args:
        maker: the thread that makes it; in others, autograd's among them, `torch.tensor(x, device="cuda")` goes through
            the dispatcher from their first op on, as `patches.py` has it in the one that opens the virtual GPU. torch
            keeps that by thread (`kOnlyLiftCPUTensors`, torch/csrc/utils/tensor_new.cpp).
    """

    def __init__(self, maker: int) -> None:
        if threading.get_ident() != maker:
            torch._C._set_only_lift_cpu_tensors(True)
        self.entered: list[Any] = []
        self.in_kernel = False
        self.inside = False
        """Whether an op is being followed: the ops that it is made of are its own."""
        self.started = False
        """Whether Python started this thread while the virtual GPU was open."""


@contextlib.contextmanager
def threads_take_part(mode: contextlib.AbstractContextManager[Any], here: Here) -> Iterator[None]:
    """While open, threads that start run under `mode`, to their end."""
    bootstrap = threading.Thread._bootstrap_inner  # type: ignore[attr-defined]

    def run(self: threading.Thread) -> None:
        here.started = True
        with mode:
            bootstrap(self)

    with replaced(threading.Thread, "_bootstrap_inner", run):
        yield


# A child that is forked while another thread holds it would wait for ever.
os.register_at_fork(
    before=ONE_AT_A_TIME.acquire, after_in_parent=ONE_AT_A_TIME.release, after_in_child=ONE_AT_A_TIME.release
)
