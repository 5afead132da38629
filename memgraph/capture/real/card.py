"""The card that is here, described for machines that have none."""

from __future__ import annotations

import dataclasses
from typing import Any

import torch

from memgraph.errors import UsageError
from memgraph.gpu.card_file import describe
from memgraph.gpu.spec import GpuSpec
from memgraph.gpu.specs import find

_LANES = 128
"""fp32 lanes of a multiprocessor; 64 in 7.0, 7.5 and 8.0 (CUDA C++ Programming Guide, arithmetic throughput)."""
_HALF_LANES = ((7, 0), (7, 5), (8, 0))


def described() -> str:
    """The text of its file, as `--gpu FILE.json` takes it.

    Raises:
        UsageError: there is no CUDA card.
    """
    if not torch.cuda.is_available():
        raise UsageError("there is no CUDA card here to describe: run this on the machine that has it")
    return describe(of_this_machine())


def of_this_machine() -> GpuSpec:
    """The card, as CUDA says it; rates are the catalogue's for that name, or follow from clocks and lanes."""
    told: Any = torch.cuda.get_device_properties(0)
    measured = GpuSpec(
        told.name, told.name, told.total_memory, (told.major, told.minor), told.multi_processor_count,
        told.L2_cache_size, *_rates(told),
    )  # fmt: skip
    try:
        like = find(told.name)
    except UsageError:
        return measured
    return dataclasses.replace(
        measured, bandwidth=like.bandwidth, half_rate=like.half_rate, float_rate=like.float_rate
    )  # fmt: skip


def _rates(told: Any) -> tuple[float, float, float]:
    """Bytes a second of memory, FLOP a second of fp16 products and of plain fp32."""
    clock = 1e3 * getattr(told, "clock_rate", 1_500_000)
    bandwidth = 2e3 * getattr(told, "memory_clock_rate", 5_000_000) * getattr(told, "memory_bus_width", 256) / 8
    lanes = 64 if (told.major, told.minor) in _HALF_LANES else _LANES
    single = 2.0 * told.multi_processor_count * lanes * clock
    return bandwidth, 2 * single, single
