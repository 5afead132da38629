"""What `torch.compile` asks of the card: its properties, its speed, the current device and stream."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from importlib import import_module
from typing import Any

import torch

from memgraph.gpu.specs import GpuSpec
from memgraph.virtual.patches import put, replaced


@contextlib.contextmanager
def device_answers(gpu: GpuSpec) -> Iterator[None]:
    """Dynamo and Inductor ask for the device through an interface class, which kept torch's own functions when it was
    imported; and they ask Triton's driver, which is not there."""
    interface = import_module("torch._dynamo.device_interface").CudaInterface
    utils, triton = import_module("torch._inductor.utils"), import_module("torch.utils._triton")
    with contextlib.ExitStack() as stack:
        for name in _ASKED_OF_CUDA:
            stack.enter_context(replaced(interface, name, staticmethod(getattr(torch.cuda, name))))
        for name in ("Event", "Stream"):
            stack.enter_context(replaced(interface, name, getattr(torch.cuda, name)))
        for name in ("get_raw_stream", "exchange_device", "maybe_exchange_device"):
            stack.enter_context(replaced(interface, name, staticmethod(_zero)))
        for name in ("_exchange_device", "_maybe_exchange_device"):
            stack.enter_context(replaced(torch.cuda, name, lambda *_: 0))
        stack.enter_context(put(torch._C, "_cuda_getCurrentRawStream", _zero))  # CPU-only builds have none
        stack.enter_context(replaced(triton, "triton_hash_with_backend", lambda: "MEMGRAPH"))
        stack.enter_context(replaced(utils, "get_device_tflops", lambda dtype: _rate(gpu, dtype)))
        stack.enter_context(replaced(utils, "get_gpu_dram_gbps", lambda: gpu.bandwidth / 1e9))
        yield


_ASKED_OF_CUDA = (
    "current_device", "set_device", "device_count", "stream", "current_stream", "set_stream", "synchronize",
    "get_device_properties", "memory_allocated", "is_bf16_supported",
)  # fmt: skip


def _zero(*_: Any, **__: Any) -> int:
    return 0


def _rate(gpu: GpuSpec, dtype: torch.dtype) -> float:
    """What Inductor takes for the card's TFLOP/s: its data sheet's, for the few cards whose name is there; else an
    estimate by Triton (`get_max_tensorcore_tflops`, `get_max_simd_tflops` of triton/testing.py), which is given MHz
    and expects kHz. So it is a thousandth, and nearly every product counts as bound by arithmetic."""
    single = dtype is torch.float32
    tf32 = single and torch.backends.cuda.matmul.fp32_precision == "tf32"
    sheet = import_module("torch._inductor.utils").datasheet_tops(dtype, is_tf32=tf32)
    if sheet is not None:
        return float(sheet)
    megahertz = gpu.float_rate / (gpu.sms * _CORES * 2) / 1e6
    operations = (256 if tf32 else 32) if single else 512
    return gpu.sms * 4 * megahertz * operations * 1e-9


_CORES = 128
"""fp32 cores of an SM."""
