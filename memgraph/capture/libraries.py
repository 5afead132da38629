"""Workspaces that a library keeps for itself once an op used it: cuBLAS's, one for each handle and stream of products.

A thread has a handle as long as it lives; the next thread that needs one gets it again, with its workspaces
(`DeviceThreadHandlePool` of aten/src/ATen/cuda/detail/DeviceThreadHandles.h: the one given back last is taken first).
"""

from __future__ import annotations

import itertools
import threading
import weakref
from collections.abc import Sequence

from memgraph.gpu import cublas
from memgraph.gpu.call import Call
from memgraph.gpu.specs import GpuSpec

Needs = Sequence[tuple[str, int]]
"""(library, bytes) of the workspaces that a call's thread must have."""


class _Lease:
    """That a thread has a handle: it ends with the thread, of whose locals it is."""


class _Handles:
    """One for each thread that asks, from its first question on."""

    def __init__(self) -> None:
        self._mine = threading.local()
        self._free: list[int] = []
        self._made = itertools.count()

    def mine(self) -> int:
        """The number of this thread's."""
        if not hasattr(self._mine, "number"):
            self._mine.number = self._free.pop() if self._free else next(self._made)
            self._mine.lease = _Lease()
            weakref.finalize(self._mine.lease, self._free.append, self._mine.number).atexit = False
        number: int = self._mine.number
        return number


class Libraries:
    """Which workspaces exist already, and what an op adds."""

    def __init__(self, gpu: GpuSpec, torch_version: tuple[int, int]) -> None:
        self._gpu = gpu
        self._torch_version = torch_version
        self._kept: set[tuple[str, int, int]] = set()
        self._handles = _Handles()

    def needs(self, call: Call) -> Needs:
        """The workspaces that a call wants; none for ops that multiply no matrices."""
        if call.op not in cublas.MATRIX_OPS:
            return ()
        return cublas.workspaces(call, self._gpu.capability, self._torch_version)

    def first_uses(self, needs: Needs, stream: int) -> list[int]:
        """Bytes of those that this thread's handle has not had before on the stream; it has them from now on."""
        if not needs:
            return []
        handle = self._handles.mine()
        return [size for library, size in needs if not self._seen((library, handle, stream))]

    def _seen(self, key: tuple[str, int, int]) -> bool:
        seen = key in self._kept
        self._kept.add(key)
        return seen
