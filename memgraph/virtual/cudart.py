"""What `torch.cuda.cudart()` gives: the few functions of the CUDA runtime that torch hands to Python.

Source: torch/csrc/cuda/shared/cudart.cpp, torch 2.11 to 2.15. A build without CUDA has none of them. `cudaStreamCreate`
writes through a pointer, and is left out.
"""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

_SUCCESS = 0


def cudart(memory_info: Callable[..., tuple[int, int]]) -> SimpleNamespace:
    """The module while a virtual GPU is open. Pinned pages of the host, and where a profiler begins, change no memory
    of the device.

    Args:
        memory_info: as `torch.cuda.mem_get_info`: free bytes and all.
    """
    names = ("cudaHostRegister", "cudaHostUnregister", "cudaProfilerStart", "cudaProfilerStop")
    return SimpleNamespace(
        cudaError=SimpleNamespace(success=_SUCCESS),
        cudaGetErrorString=lambda code: "no error" if code == _SUCCESS else f"CUDA error {code}",
        cudaMemGetInfo=memory_info,
        **dict.fromkeys(names, _succeeds),
    )


def _succeeds(*_: Any) -> int:
    return _SUCCESS
