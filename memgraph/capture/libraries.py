"""Workspaces that a library keeps for itself once an op used it: cuBLAS's, one for each thread that multiplies."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from memgraph.gpu import cublas
from memgraph.gpu.call import Call
from memgraph.gpu.specs import GpuSpec

Inquiry = Callable[[Sequence[Any], Mapping[str, Any]], Sequence[int]]


class Libraries:
    """Which workspaces exist already, and what an op adds."""

    def __init__(self, gpu: GpuSpec, torch_version: tuple[int, int]) -> None:
        self._gpu = gpu
        self._torch_version = torch_version
        self._kept: set[tuple[str, int]] = set()

    def behind(self, name: str, call_of: Callable[..., Call]) -> Inquiry | None:
        """For an op that multiplies matrices: what a call makes the libraries allocate and keep, in bytes."""
        if name not in cublas.MATRIX_OPS:
            return None

        def inquire(args: Sequence[Any], kwargs: Mapping[str, Any]) -> Sequence[int]:
            return self._first_uses(call_of(args, kwargs, ()))

        return inquire

    def _first_uses(self, call: Call) -> list[int]:
        thread = threading.get_ident()
        return [
            size
            for library, size in cublas.workspaces(call, self._gpu.capability, self._torch_version)
            if not self._seen((library, thread))
        ]

    def _seen(self, key: tuple[str, int]) -> bool:
        """Whether this thread's handle had this workspace before; it has from now on."""
        seen = key in self._kept
        self._kept.add(key)
        return seen
