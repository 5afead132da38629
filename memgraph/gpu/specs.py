"""The catalogue of GPUs: memory, compute capability, and what kernels and rooflines depend on.

Memory is what `torch.cuda.get_device_properties().total_memory` reports, which is less than the nominal figure. The
H200's and H100's were measured; the others are the "total capacity" that torch's out-of-memory messages print for these
cards, to two decimals of a GiB. Rates are the makers' dense figures with fp32 accumulation.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from memgraph.errors import unknown_name

GIB = 2**30
MIB = 2**20

_H200_CONTEXT = 554_500_096
"""Memory gone from a fresh H200 once a process has a CUDA context (`cudaMemGetInfo`: total less free less 2 MiB that
the allocator held; driver 580.159, CUDA 13.0, torch 2.11, lazy module loading)."""
_HOPPER_CLUSTERS = ((1, 132), (2, 66), (3, 39), (4, 30), (5, 22), (6, 17), (7, 15), (8, 15), (16, 7))


@dataclass(frozen=True)
class GpuSpec:
    """One card. Sizes in bytes, rates per second."""

    name: str
    """As on the command line: `rtx3090`."""
    title: str
    """As the driver says it: `NVIDIA GeForce RTX 3090`."""
    memory: int
    """Total memory."""
    capability: tuple[int, int]
    sms: int
    """Streaming multiprocessors."""
    l2: int
    bandwidth: float
    """Of the memory, bytes a second."""
    half_rate: float
    """Dense fp16 or bf16 matrix products, FLOP a second."""
    float_rate: float
    """Plain fp32, FLOP a second."""

    @property
    def max_threads_per_sm(self) -> int:
        """Resident threads (CUDA C++ Programming Guide, table of compute capabilities)."""
        return {(7, 5): 1024, (8, 6): 1536, (8, 9): 1536, (12, 0): 1536}.get(self.capability, 2048)

    @property
    def clusters(self) -> dict[int, int]:
        """How many clusters of thread blocks the card holds at once, by the blocks of a cluster; empty where that is
        not known. Multiprocessors that are switched off leave clusters fewer than multiprocessors divided by blocks.
        What the driver counts on an H200 (`cuOccupancyMaxActiveClusters`, one block a multiprocessor), those of
        16 as its plans need; 59 of 60 plans of an H100 agree."""
        return dict(_HOPPER_CLUSTERS) if self.capability == (9, 0) and self.sms == 132 else {}

    @property
    def context(self) -> int:
        """What a process uses besides the allocator: the CUDA context that nvidia-smi shows on top. Measured on the
        H200; an estimate elsewhere, in proportion to the SMs, whose stacks and local memory are most of it."""
        return _H200_CONTEXT * self.sms // 132

    @property
    def supports_bf16(self) -> bool:
        """Whether bf16 products run in hardware."""
        return self.capability >= (8, 0)


def _card(
    name: str,
    title: str,
    gib: float,
    capability: tuple[int, int],
    sms: int,
    l2_mib: int,
    gb_s: float,
    half: float,
    single: float,
) -> GpuSpec:
    return GpuSpec(
        name, f"NVIDIA {title}", int(gib * GIB), capability, sms, l2_mib * MIB, gb_s * 1e9, half * 1e12, single * 1e12
    )


_CARDS = (
    _card("rtx3060", "GeForce RTX 3060", 11.76, (8, 6), 28, 3, 360, 25.5, 12.7),
    _card("rtx3070", "GeForce RTX 3070", 7.79, (8, 6), 46, 4, 448, 40.6, 20.3),
    _card("rtx3080", "GeForce RTX 3080", 9.77, (8, 6), 68, 5, 760, 59.5, 29.8),
    _card("rtx3090", "GeForce RTX 3090", 23.69, (8, 6), 82, 6, 936, 71.0, 35.6),
    _card("rtx4060ti", "GeForce RTX 4060 Ti", 15.60, (8, 9), 34, 32, 288, 44.1, 22.1),
    _card("rtx4070", "GeForce RTX 4070", 11.72, (8, 9), 46, 36, 504, 58.3, 29.1),
    _card("rtx4080", "GeForce RTX 4080", 15.70, (8, 9), 76, 64, 717, 97.5, 48.7),
    _card("rtx4090", "GeForce RTX 4090", 23.64, (8, 9), 128, 72, 1008, 165.2, 82.6),
    _card("rtx5070", "GeForce RTX 5070", 11.50, (12, 0), 48, 48, 672, 61.7, 30.9),
    _card("rtx5080", "GeForce RTX 5080", 15.47, (12, 0), 84, 64, 960, 112.6, 56.3),
    _card("rtx5090", "GeForce RTX 5090", 31.36, (12, 0), 170, 96, 1792, 209.5, 104.8),
    _card("t4", "Tesla T4", 14.58, (7, 5), 40, 4, 320, 65.0, 8.1),
    _card("v100-16gb", "Tesla V100-SXM2-16GB", 15.77, (7, 0), 80, 6, 900, 125.0, 15.7),
    _card("v100-32gb", "Tesla V100-SXM2-32GB", 31.74, (7, 0), 80, 6, 900, 125.0, 15.7),
    _card("a10", "A10", 22.09, (8, 6), 72, 6, 600, 125.0, 31.2),
    _card("a10g", "A10G", 22.04, (8, 6), 80, 6, 600, 70.0, 35.0),
    _card("a40", "A40", 44.37, (8, 6), 84, 6, 696, 149.7, 37.4),
    _card("rtxa6000", "RTX A6000", 47.53, (8, 6), 84, 6, 768, 154.8, 38.7),
    _card("l4", "L4", 21.96, (8, 9), 58, 48, 300, 121.0, 30.3),
    _card("l40s", "L40S", 44.39, (8, 9), 142, 96, 864, 362.0, 91.6),
    _card("a100-40gb", "A100-SXM4-40GB", 39.39, (8, 0), 108, 40, 1555, 312.0, 19.5),
    _card("a100-80gb", "A100-SXM4-80GB", 79.14, (8, 0), 108, 40, 2039, 312.0, 19.5),
    _card("h100", "H100 80GB HBM3", 79.10, (9, 0), 132, 50, 3350, 989.0, 66.9),
    GpuSpec("h200", "NVIDIA H200", 150_109_880_320, (9, 0), 132, 60 * MIB, 4.8e12, 989e12, 66.9e12),
    _card("b200", "B200", 178.35, (10, 0), 148, 126, 7700, 2250.0, 75.0),
)
_BY_KEY = {re.sub(r"[^a-z0-9]", "", card.name): card for card in _CARDS} | {
    re.sub(r"[^a-z0-9]", "", card.title.lower()): card for card in _CARDS
}


def find(name: str) -> GpuSpec:
    """The card called `name`, by its short name or the driver's title; case, spaces and hyphens do not matter.

    Raises:
        UsageError: there is none, with the closest names.
    """
    card = _BY_KEY.get(re.sub(r"[^a-z0-9]", "", name.lower()))
    if card is None:
        raise unknown_name("GPU", name, [card.name for card in _CARDS])
    return card


def all_gpus() -> tuple[GpuSpec, ...]:
    """The catalogue, in its order."""
    return _CARDS
