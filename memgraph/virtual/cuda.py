"""What `torch.cuda` answers for the virtual GPU. Installed by `patches.py`; memory figures come from the allocator
model."""

from __future__ import annotations

import os
import types
from collections.abc import Callable, Container, Mapping
from typing import Any

import torch
from torch.cuda._utils import _get_device_index

from memgraph.gpu.allocator.blocks import Block, Segment
from memgraph.gpu.allocator.caching import Allocator
from memgraph.gpu.specs import GpuSpec
from memgraph.virtual.cudart import cudart
from memgraph.virtual.history import Book, FramesOf, History
from memgraph.virtual.random import VirtualGenerator
from memgraph.virtual.statistics import Statistics
from memgraph.virtual.streams import VirtualEvent, VirtualExternalStream, VirtualStream, synchronize_device

ARCHITECTURES = ("sm_75", "sm_80", "sm_86", "sm_90", "sm_100", "sm_120")
"""What the wheels for CUDA 13 have kernels for (.ci/manywheel/build_cuda.sh of pytorch/pytorch)."""


class Ranges:
    """NVTX marks, which nobody reads."""

    def __getattr__(self, name: str) -> Callable[..., int]:
        return lambda *_, **__: 0


def device_properties(gpu: GpuSpec) -> Any:
    """As `torch.cuda.get_device_properties`."""
    major, minor = gpu.capability
    return types.SimpleNamespace(
        name=gpu.title, major=major, minor=minor, total_memory=gpu.memory, multi_processor_count=gpu.sms,
        max_threads_per_multi_processor=gpu.max_threads_per_sm, warp_size=32, is_integrated=0, is_multi_gpu_board=0,
        regs_per_multiprocessor=65536, L2_cache_size=gpu.l2, gcnArchName="", uuid="",
    )  # fmt: skip


def _in_segment(segment: Segment, awaiting: Container[Block]) -> dict[str, int]:
    """What of the statistics is in one segment. A block that is in use, or waits for other streams, is active; a free
    one is split off if others are beside it."""
    blocks = list(segment.blocks())
    active = [block for block in blocks if block.in_use]
    used = [block for block in active if block not in awaiting] if awaiting else active
    split = [block for block in blocks if not block.in_use and block.mapped] if len(blocks) > 1 else []
    size = sum(block.size for block in blocks if block.mapped)
    values = (sum(block.size for block in used), sum(block.size for block in active),
              sum(block.requested for block in active), size, sum(block.size for block in split),
              len(used), len(active), 1, len(split))  # fmt: skip
    return dict(zip(_COUNTED, values, strict=True))


_COUNTED = (
    "allocated_bytes", "active_bytes", "requested_bytes", "reserved_bytes", "inactive_split_bytes", "allocation",
    "active", "segment", "inactive_split",
)  # fmt: skip


def memory_snapshot(allocator: Allocator) -> list[dict[str, Any]]:
    """As `torch.cuda.memory_snapshot`, without stacks: segments in order of address, each with its blocks."""
    segments = sorted(allocator.segments.values(), key=lambda segment: segment.address)
    return [_segment_told(segment, allocator.awaiting) for segment in segments]


def _segment_told(segment: Segment, awaiting: Container[Block]) -> dict[str, Any]:
    inside = _in_segment(segment, awaiting)
    return {
        "device": 0, "address": segment.address, "total_size": segment.size, "stream": segment.stream,
        "segment_type": "small" if segment.small else "large", "is_expandable": segment.expandable,
        "allocated_size": inside["allocated_bytes"], "active_size": inside["active_bytes"],
        "requested_size": inside["requested_bytes"],
        "blocks": [
            {"address": block.address, "size": block.size, "requested_size": block.requested,
             "state": _state(block, awaiting), "frames": []}
            for block in segment.blocks()
        ],
    }  # fmt: skip


def _state(block: Block, awaiting: Container[Block]) -> str:
    """In the words of torch/csrc/cuda/Module.cpp; torch/cuda/memory.py calls the second `active_awaiting_free`."""
    if not block.in_use:
        return "inactive"
    return "active_pending_free" if block in awaiting else "active_allocated"


class Devices:
    """The devices that a script may count. It uses one of them: each rank of a world has its own.

    Args:
        count: how many there are.
        tell: told which is current and how many there are, for C++.
    """

    def __init__(self, count: int = 1, tell: Callable[[int, int], None] = lambda _index, _count: None) -> None:
        self.count = count
        self.current = 0
        self._tell = tell
        tell(0, count)

    def select(self, device: Any) -> int:
        """As `torch.cuda.set_device`, which ignores numbers below 0; the device that was current before."""
        before, index = self.current, _get_device_index(device, optional=True)
        if index >= self.count:
            raise torch.AcceleratorError("CUDA error: invalid device ordinal")
        if index >= 0:
            self.current = index
            self._tell(index, self.count)
        return before


_SAME = (
    "device_count", "empty_cache", "max_memory_allocated", "max_memory_reserved", "memory_allocated", "memory_reserved",
    "memory_stats", "reset_accumulated_memory_stats", "reset_peak_memory_stats", "synchronize",
)  # fmt: skip
ACCELERATOR = {name: name for name in _SAME} | {
    "current_device_index": "current_device", "current_device_idx": "current_device",
    "set_device_index": "set_device", "set_device_idx": "set_device",
}  # fmt: skip
"""What `torch.accelerator` answers as `torch.cuda` does, and under which name."""


def at_rest(gpu: GpuSpec, allocator: Allocator) -> Mapping[str, Any]:
    """What NVML answers: the memory in use as it is, and the rest as of a card that does nothing, for nothing runs."""
    idle = dict.fromkeys(("utilization", "memory_usage", "temperature", "power_draw", "clock_rate"), lambda *_, **__: 0)
    return {
        **idle,
        "device_memory_used": lambda *_, **__: gpu.context + allocator.reserved,
        "list_gpu_processes": lambda *_, **__: (
            f"GPU:0\nprocess {os.getpid():>10d} uses {(gpu.context + allocator.reserved) / 2**20:>12.3f} MB GPU memory"
        ),
    }


def answers(gpu: GpuSpec, book: Book, empty_cache: Callable[[], None], devices: Devices, frames_of: FramesOf
            ) -> Mapping[str, Any]:  # fmt: skip
    """Name in `torch.cuda` → what it is while the virtual GPU is open."""
    allocator, statistics = book.allocator, Statistics(book)
    history = History(book, frames_of, lambda: memory_snapshot(allocator))

    def reset_peaks(*_: Any, **__: Any) -> None:
        allocator.reset_peaks()
        statistics.reset_peaks()

    def memory_info(*_: Any, **__: Any) -> tuple[int, int]:
        free = min(gpu.memory - gpu.context, allocator.capacity) - allocator.reserved
        return max(0, free), gpu.memory

    def set_fraction(fraction: float, *_: Any, **__: Any) -> None:
        allocator.initialise()
        allocator.set_limit(int(fraction * gpu.memory) if fraction < 1 else None)  # all of it is no limit to torch

    def nothing(*_: Any, **__: Any) -> None:
        pass

    def initialise(*_: Any, **__: Any) -> None:
        allocator.initialise()

    def rng_state(*_: Any, **__: Any) -> torch.Tensor:
        return torch.zeros(16, dtype=torch.uint8)

    return {
        "is_available": lambda: True,
        "is_initialized": lambda: True,
        "init": initialise,
        "_lazy_init": initialise,
        "device_count": lambda: devices.count,
        "current_device": lambda: devices.current,
        "set_device": lambda device: devices.select(device) and None,
        "get_device_name": lambda *_, **__: gpu.title,
        "get_device_capability": lambda *_, **__: gpu.capability,
        "get_device_properties": lambda *_, **__: device_properties(gpu),
        "is_bf16_supported": lambda including_emulation=True: including_emulation or gpu.capability >= (8, 0),
        "is_current_stream_capturing": lambda: False,
        "_exchange_device": devices.select,
        "_maybe_exchange_device": devices.select,
        "get_arch_list": lambda: list(ARCHITECTURES),
        "get_gencode_flags": lambda: "",
        "get_allocator_backend": lambda: "native",
        "get_sync_debug_mode": lambda: 0,
        "set_sync_debug_mode": nothing,
        "_sleep": nothing,
        "_record_memory_history": history.record,
        "_snapshot": history.snapshot,
        "synchronize": lambda *_, **__: synchronize_device(),
        "ipc_collect": nothing,
        "Stream": VirtualStream,
        "ExternalStream": VirtualExternalStream,
        "Event": VirtualEvent,
        "default_generators": (VirtualGenerator("cuda:0"),),
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
        "_cudart": cudart(memory_info),
        "set_per_process_memory_fraction": set_fraction,
        "memory_stats": lambda *_, **__: statistics.now(),
        "memory_stats_as_nested_dict": lambda *_, **__: statistics.nested(),
        "memory_snapshot": lambda *_, **__: memory_snapshot(allocator),
        "memory_allocated": lambda *_, **__: allocator.allocated,
        "max_memory_allocated": lambda *_, **__: allocator.peak_allocated,
        "memory_reserved": lambda *_, **__: allocator.reserved,
        "max_memory_reserved": lambda *_, **__: allocator.peak_reserved,
        "reset_peak_memory_stats": reset_peaks,
        "reset_max_memory_allocated": reset_peaks,
        "reset_max_memory_cached": reset_peaks,
        "reset_accumulated_memory_stats": lambda *_, **__: statistics.reset_sums(),
        **at_rest(gpu, allocator),
    }
