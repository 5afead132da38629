"""What `torch.compile` keeps from run to run: nothing that is made here stays, and nothing made elsewhere is used."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator
from importlib import import_module
from typing import Any

import torch

from memgraph.temporary import temporary_folder
from memgraph.virtual.patches import as_torch_is, replaced

_KERNELS = "torch._inductor.runtime.compile_tasks."
"""How the modules that Inductor generates are named in `sys.modules`."""
_CACHE_PREFIX = "memgraph-inductor-"
"""Of the temporary folder that stands for torch's compile caches."""


@contextlib.contextmanager
def nothing_kept() -> Iterator[None]:
    """Code made here must never run on a real GPU, nor the other way round: caches are off or private, their folder is
    a temporary one, and what Dynamo compiled is forgotten at the end."""
    codecache = import_module("torch._inductor.codecache")
    kernels = import_module("torch._inductor.async_compile").CompiledTritonKernels
    inductor = import_module("torch._inductor.config")
    with contextlib.ExitStack() as stack:
        stack.enter_context(_forgotten_by_dynamo())
        stack.enter_context(_temporary_cache_folder())
        stack.enter_context(inductor.patch({"fx_graph_cache": False, "compile_threads": 1}))
        stack.enter_context(import_module("torch._functorch.config").patch(enable_autograd_cache=False))
        stack.enter_context(import_module("torch._dynamo.config").patch(suppress_errors=True))
        for name, empty in (("modules", []), ("modules_no_attr", {}), ("linemaps", {})):
            stack.enter_context(replaced(codecache.PyCodeCache, name, empty))
        stack.enter_context(replaced(kernels, "_cache", {}))
        stack.enter_context(_card_facts_forgotten())
        yield


@contextlib.contextmanager
def _forgotten_by_dynamo() -> Iterator[None]:
    before = set(sys.modules)
    try:
        yield
    finally:
        with as_torch_is():
            torch._dynamo.reset()
        for name in set(sys.modules) - before:
            if name.startswith(_KERNELS):
                del sys.modules[name]


@contextlib.contextmanager
def _temporary_cache_folder() -> Iterator[None]:
    before = {name: os.environ.get(name) for name in ("TORCHINDUCTOR_CACHE_DIR", "TRITON_CACHE_DIR")}
    with temporary_folder(_CACHE_PREFIX) as folder:
        os.environ.update(dict.fromkeys(before, str(folder)))
        try:
            yield
        finally:
            for name, value in before.items():
                os.environ.pop(name)
                if value is not None:
                    os.environ[name] = value


@contextlib.contextmanager
def _card_facts_forgotten() -> Iterator[None]:
    """Inductor remembers what it asked of the card with `functools.cache`: another card must not inherit it."""
    owners = (
        import_module("torch._inductor.utils"),
        import_module("torch.utils._triton"),
        import_module("torch._inductor.runtime.hints").DeviceProperties,
        import_module("torch._inductor.fx_passes.pad_mm"),
        import_module("torch._inductor.codecache").CacheBase,
    )
    functions = [value for owner in owners for value in _remembering(owner)]
    for function in functions:
        function.cache_clear()
    try:
        with replaced(import_module("torch._dynamo.device_interface"), "caching_worker_device_properties", {}):
            yield
    finally:
        for function in functions:
            function.cache_clear()


_REMEMBERED = (
    "get_gpu_type", "is_big_gpu", "get_max_num_sms", "using_b200", "get_backend_num_stages", "get_device_tflops",
    "get_gpu_dram_gbps", "has_triton", "has_triton_tma", "has_triton_tma_device", "_device_supports_tma",
    "has_triton_experimental_host_tma", "has_triton_tensor_descriptor_host_tma", "has_triton_stable_tma_api",
    "has_datacenter_blackwell_tma_device", "triton_backend", "triton_hash_with_backend", "create", "get_pad_cache",
    "get_local_cache_path", "get_system",
)  # fmt: skip


def _remembering(owner: Any) -> Iterator[Any]:
    for name in _REMEMBERED:
        function = getattr(owner, name, None)
        if hasattr(function, "cache_clear"):
            yield function
