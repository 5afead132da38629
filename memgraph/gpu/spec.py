"""One card: memory, compute capability, and what kernels and rooflines depend on. Plain data."""

from __future__ import annotations

from dataclasses import dataclass

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
    from_nearest: bool = False
    """Whether the memory is that of a similar card."""
    counted: tuple[tuple[int, int], ...] = ()
    """Clusters that fit at once, by their blocks, where the card was asked."""

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
        if self.counted:
            return dict(self.counted)
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
