"""Triton kernels that scripts launch themselves: a launch computes nothing, and takes nothing of the card.

`kernel[grid](...)` is `JITFunction.run`, with `Autotuner.run` and `Heuristics.run` in front of it (triton/runtime). The
tuner times each configuration at the first launch, with a buffer of 256 MiB that flushes the card's cache: that it
does here too, on a driver that says what the card is. Triton is changed when it is imported, if it ever is. For triton
3.6 and later, which torch 2.11 and later bring.
"""

from __future__ import annotations

import contextlib
import importlib
import sys
import types
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch

from memgraph.gpu.specs import GpuSpec
from memgraph.virtual.after_import import Change
from memgraph.virtual.patches import replaced
from memgraph.virtual.values import known as values

Assume = Callable[[str], None]
_FLUSHED = 256 * 2**20
"""Bytes that `get_empty_cache_for_benchmark` of triton/backends/nvidia/driver.py takes."""
_SHARED = {(7, 0): 98304, (7, 5): 65536, (8, 0): 166912, (8, 7): 166912, (9, 0): 232448, (10, 0): 232448}
"""Bytes of shared memory that a block may have, by compute capability (CUDA's programming guide); else 101,376."""


def triton_kernels_do_nothing(gpu: GpuSpec, assume: Assume) -> dict[str, Change]:
    """Launches do nothing, and Triton finds this card: what to change, for `changed_when_imported`."""
    driver = Driver(gpu)

    @contextlib.contextmanager
    def launches(jit: types.ModuleType) -> Iterator[None]:
        with (
            replaced(jit.JITFunction, "run", _launch(assume)),
            replaced(sys.modules["triton.runtime.driver"].driver, "_active", driver),
        ):
            yield

    return {
        "triton.runtime.jit": launches,
        "triton.testing": lambda testing: replaced(testing, "do_bench", driver.time),
    }


def _launch(assume: Assume) -> Callable[..., Kernel]:
    def run(self: Any, *args: Any, grid: Any = None, warmup: bool = False, **kwargs: Any) -> Kernel:
        """As `JITFunction.run`: its hooks run, and a grid that is a function is asked."""
        for hook in self.pre_run_hooks:
            hook(*args, **kwargs)
        if callable(grid) and not warmup:
            options = {name: value for name, value in kwargs.items() if name in self.signature.parameters}
            bound = self.signature.bind(*args, **options)
            bound.apply_defaults()
            grid(dict(bound.arguments))
        if not warmup:
            for tensor in values.tensors_in(args, kwargs):
                values.forget(tensor)  # which of them it writes into is not known
        return Kernel(assume)

    return run


class Kernel:
    """What a launch returns: a compiled kernel that was not compiled. Scripts ask it how many fit beside each other."""

    def __init__(self, assume: Assume) -> None:
        self._assume = assume

    def _init_handles(self) -> None:
        pass

    @property
    def n_regs(self) -> int:
        self._assume("a Triton kernel is taken to use 32 registers a thread")
        return 32

    @property
    def n_spills(self) -> int:
        return 0

    @property
    def metadata(self) -> Any:
        self._assume("a Triton kernel is taken to use 1,024 bytes of shared memory")
        return types.SimpleNamespace(shared=1024, num_warps=4, num_stages=3, num_ctas=1)


class Driver:
    """What Triton asks its driver (`CudaDriver` of triton/backends/nvidia/driver.py)."""

    def __init__(self, gpu: GpuSpec) -> None:
        self._gpu = gpu
        self.utils = self

    def get_current_target(self) -> Any:
        major, minor = self._gpu.capability
        return importlib.import_module("triton.backends.compiler").GPUTarget("cuda", 10 * major + minor, 32)

    def get_current_device(self) -> int:
        return 0

    def set_current_device(self, _device: int) -> None:
        pass

    def get_current_stream(self, _device: int) -> int:
        return 0

    def get_active_torch_device(self) -> torch.device:
        return torch.device("cuda", 0)

    def get_device_interface(self) -> Any:
        return torch.cuda

    def get_device_properties(self, _device: int) -> dict[str, int]:
        return {
            "max_shared_mem": _SHARED.get(self._gpu.capability, 101376),
            "max_num_regs": 65536,
            "multiprocessor_count": self._gpu.sms,
            "warpSize": 32,
        }

    def get_benchmarker(self) -> Callable[..., Any]:
        return self.time

    def get_empty_cache_for_benchmark(self) -> torch.Tensor:
        return torch.empty(_FLUSHED // 4, dtype=torch.int, device="cuda")

    def clear_cache(self, cache: torch.Tensor) -> None:
        cache.zero_()

    def time(self, fn: Callable[[], Any], *_: Any, quantiles: Sequence[float] | None = None, **__: Any) -> Any:
        """As `triton.testing.do_bench`: once, then again with the buffer. Its time, in milliseconds, is given as 1."""
        fn()
        cache = self.get_empty_cache_for_benchmark()
        self.clear_cache(cache)
        fn()
        del cache
        return 1.0 if quantiles is None else [1.0 for _ in quantiles]
