"""What the code that Inductor generates calls when it runs: kernels, which do nothing, and allocations and views, which
have to be seen."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from importlib import import_module
from typing import Any

import torch

from memgraph.virtual.inductor import tuning
from memgraph.virtual.inductor.watcher import Watcher
from memgraph.virtual.patches import put, replaced


@contextlib.contextmanager
def kernels_do_nothing(timed: tuning.Timer, state: Callable[[str], None]) -> Iterator[None]:
    """A generated kernel is loaded, so that its configurations are known, and not launched, nor compiled for it. Its
    first launch takes what choosing among them on the card would take (`tuning.py`)."""
    async_compile = import_module("torch._inductor.async_compile")
    heuristics = import_module("torch._inductor.runtime.triton_heuristics")
    helpers = import_module("torch._inductor.runtime.triton_helpers")

    def load(_self: Any, kernel_name: str, source_code: str, device_str: str = "cuda") -> Any:
        return async_compile._load_triton_kernel_from_source(kernel_name, source_code)

    with contextlib.ExitStack() as stack:
        stack.enter_context(replaced(async_compile.AsyncCompile, "triton", load))
        stack.enter_context(replaced(helpers, "set_driver_to_gpu", lambda: None))
        stack.enter_context(replaced(heuristics.CachingAutotuner, "precompile", lambda *_, **__: None))
        stack.enter_context(replaced(heuristics.CachingAutotuner, "run", tuning.first_launch(timed, state)))
        yield


@contextlib.contextmanager
def wrappers_go_through_the_dispatcher() -> Iterator[None]:
    """A wrapper allocates and takes views by C++ functions that no dispatch mode sees
    (torch/csrc/dynamo/guards.cpp); and an input's address is asked for its alignment, which fresh storages have."""
    guards, compile_fx = torch._C._dynamo.guards, import_module("torch._inductor.compile_fx")
    with contextlib.ExitStack() as stack:
        stack.enter_context(replaced(guards, "_empty_strided_cuda", _empty_strided))
        stack.enter_context(replaced(guards, "_reinterpret_tensor", _reinterpret))
        stack.enter_context(replaced(guards, "assert_alignment", lambda *_: None))
        stack.enter_context(replaced(compile_fx, "get_input_idxs_to_check", lambda *_: []))
        yield


def _empty_strided(size: Sequence[int], stride: Sequence[int], dtype: torch.dtype) -> torch.Tensor:
    return torch.empty_strided(size, stride, dtype=dtype, device="cuda")


def _reinterpret(tensor: torch.Tensor, size: Sequence[int], stride: Sequence[int], offset: int = 0) -> torch.Tensor:
    return torch.as_strided(tensor, size, stride, tensor.storage_offset() + offset)


@contextlib.contextmanager
def graphs_are_not_captured(watcher: Watcher) -> Iterator[None]:
    """`reduce-overhead` replays CUDA graphs, whose memory lies in pools of their own; here each graph runs as it is."""
    compile_fx = import_module("torch._inductor.compile_fx")

    def cudagraphify(model: Callable[..., Any], static_input_idxs: Sequence[int] = (), **_: Any) -> Callable[..., Any]:
        watcher.state("CUDA graphs are not captured: their pools of memory come on top, see the bound")
        key, static = object(), frozenset(static_input_idxs)

        def run(inputs: Any) -> Any:
            copied = [value for place, value in enumerate(inputs) if place not in static]
            watcher.captured(key, sum(map(_bytes, copied)))
            del copied
            return model(inputs)

        return run

    with (
        replaced(compile_fx, "cudagraphify", cudagraphify),
        put(torch._C, "_cuda_cudaCachingAllocator_is_enabled", lambda: True),  # CPU-only builds have none
    ):
        yield


def _bytes(value: Any) -> int:
    return value.untyped_storage().nbytes() if isinstance(value, torch.Tensor) else 0
