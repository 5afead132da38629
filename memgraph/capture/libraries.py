"""Workspaces that a library keeps for itself once an op used it: cuBLAS's, one for each thread and stream that
multiply."""

from __future__ import annotations

import threading
from collections.abc import Sequence

from memgraph.gpu import cublas
from memgraph.gpu.call import Call
from memgraph.gpu.specs import GpuSpec

Needs = Sequence[tuple[str, int]]
"""(library, bytes) of the workspaces that a call's thread must have."""


class Libraries:
    """Which workspaces exist already, and what an op adds."""

    def __init__(self, gpu: GpuSpec, torch_version: tuple[int, int]) -> None:
        self._gpu = gpu
        self._torch_version = torch_version
        self._kept: set[tuple[str, int, int]] = set()

    def needs(self, call: Call) -> Needs:
        """The workspaces that a call wants; none for ops that multiply no matrices."""
        if call.op not in cublas.MATRIX_OPS:
            return ()
        return cublas.workspaces(call, self._gpu.capability, self._torch_version)

    def first_uses(self, needs: Needs, stream: int) -> list[int]:
        """Bytes of those that this thread's handle has not had before on the stream; it has them from now on."""
        thread = threading.get_ident()
        return [size for library, size in needs if not self._seen((library, thread, stream))]

    def _seen(self, key: tuple[str, int, int]) -> bool:
        seen = key in self._kept
        self._kept.add(key)
        return seen
