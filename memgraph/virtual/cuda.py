"""What `torch.cuda` answers for the virtual GPU. Installed by `patches.py`; memory figures come from the allocator
model."""

from __future__ import annotations

import contextlib
import types
from collections.abc import Callable, Mapping
from typing import Any, Self

import torch

from memgraph.gpu.allocator import Allocator
from memgraph.gpu.specs import GpuSpec


class VirtualStream:
    """The one stream there is. Work on it is done as soon as it is issued."""

    cuda_stream = 0
    stream_id = 0
    priority = 0
    device_index = 0

    def __init__(self, *_: Any, **__: Any) -> None:
        self.device = torch.device("cuda", 0)

    def query(self) -> bool:
        return True

    def synchronize(self) -> None:
        pass

    def wait_stream(self, _stream: Any) -> None:
        pass

    def wait_event(self, _event: Any) -> None:
        pass

    def record_event(self, event: Any = None) -> Any:
        return event if event is not None else VirtualEvent()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        pass


class VirtualEvent:
    """An event that has always happened; the time between two is unknown and given as 0."""

    def __init__(self, *_: Any, **__: Any) -> None:
        pass

    def record(self, _stream: Any = None) -> None:
        pass

    def wait(self, _stream: Any = None) -> None:
        pass

    def query(self) -> bool:
        return True

    def synchronize(self) -> None:
        pass

    def elapsed_time(self, _end: Any) -> float:
        return 0.0


@contextlib.contextmanager
def _stream_context(_stream: Any) -> Any:
    yield


def device_properties(gpu: GpuSpec) -> Any:
    """As `torch.cuda.get_device_properties`."""
    major, minor = gpu.capability
    return types.SimpleNamespace(
        name=gpu.title, major=major, minor=minor, total_memory=gpu.memory, multi_processor_count=gpu.sms,
        max_threads_per_multi_processor=gpu.max_threads_per_sm, warp_size=32, is_integrated=0, is_multi_gpu_board=0,
        regs_per_multiprocessor=65536, L2_cache_size=gpu.l2, gcnArchName="", uuid="",
    )  # fmt: skip


def memory_statistics(allocator: Allocator) -> dict[str, int]:
    """The entries of `torch.cuda.memory_stats` that the model knows; the others are absent."""
    figures = {
        "allocated_bytes": (allocator.allocated, allocator.peak_allocated),
        "requested_bytes": (allocator.requested, allocator.peak_requested),
        "reserved_bytes": (allocator.reserved, allocator.peak_reserved),
        "active_bytes": (allocator.allocated, allocator.peak_allocated),
    }
    stats = {"num_alloc_retries": allocator.num_alloc_retries, "num_ooms": allocator.num_ooms}
    for name, (current, peak) in figures.items():
        stats[f"{name}.all.current"] = current
        stats[f"{name}.all.peak"] = peak
    return stats


def memory_summary(allocator: Allocator) -> str:
    """As `torch.cuda.memory_summary`, of what the model knows. Bytes."""
    stats = memory_statistics(allocator)
    names = ("allocated_bytes", "requested_bytes", "reserved_bytes")
    rows = [(name, stats[f"{name}.all.current"], stats[f"{name}.all.peak"]) for name in names]
    return "\n".join(f"{name:<16} current {current:>16} peak {peak:>16}" for name, current, peak in rows)


def answers(gpu: GpuSpec, allocator: Allocator, empty_cache: Callable[[], None]) -> Mapping[str, Any]:
    """Name in `torch.cuda` → what it is while the virtual GPU is open."""

    def memory_info(*_: Any, **__: Any) -> tuple[int, int]:
        return gpu.memory - gpu.context - allocator.reserved, gpu.memory

    def set_fraction(fraction: float, *_: Any, **__: Any) -> None:
        allocator.set_limit(int(fraction * gpu.memory) if fraction < 1 else None)  # all of it is no limit to torch

    def nothing(*_: Any, **__: Any) -> None:
        pass

    def rng_state(*_: Any, **__: Any) -> torch.Tensor:
        return torch.zeros(16, dtype=torch.uint8)

    return {
        "is_available": lambda: True,
        "is_initialized": lambda: True,
        "init": nothing,
        "_lazy_init": nothing,
        "device_count": lambda: 1,
        "current_device": lambda: 0,
        "set_device": nothing,
        "get_device_name": lambda *_, **__: gpu.title,
        "get_device_capability": lambda *_, **__: gpu.capability,
        "get_device_properties": lambda *_, **__: device_properties(gpu),
        "is_bf16_supported": lambda including_emulation=True: including_emulation or gpu.capability >= (8, 0),
        "is_current_stream_capturing": lambda: False,
        "synchronize": nothing,
        "ipc_collect": nothing,
        "current_stream": lambda *_, **__: VirtualStream(),
        "default_stream": lambda *_, **__: VirtualStream(),
        "stream": _stream_context,
        "set_stream": nothing,
        "Stream": VirtualStream,
        "Event": VirtualEvent,
        "manual_seed": nothing,
        "manual_seed_all": nothing,
        "seed": nothing,
        "seed_all": nothing,
        "initial_seed": lambda: 0,
        "get_rng_state": rng_state,
        "get_rng_state_all": lambda: [rng_state()],
        "set_rng_state": nothing,
        "set_rng_state_all": nothing,
        "empty_cache": empty_cache,
        "mem_get_info": memory_info,
        "set_per_process_memory_fraction": set_fraction,
        "memory_stats": lambda *_, **__: memory_statistics(allocator),
        "memory_summary": lambda *_, **__: memory_summary(allocator),
        "memory_allocated": lambda *_, **__: allocator.allocated,
        "max_memory_allocated": lambda *_, **__: allocator.peak_allocated,
        "memory_reserved": lambda *_, **__: allocator.reserved,
        "max_memory_reserved": lambda *_, **__: allocator.peak_reserved,
        "reset_peak_memory_stats": lambda *_, **__: allocator.reset_peaks(),
        "reset_max_memory_allocated": lambda *_, **__: allocator.reset_peaks(),
        "reset_accumulated_memory_stats": nothing,
    }
