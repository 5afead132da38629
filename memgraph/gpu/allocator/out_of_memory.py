"""The allocator's refusal, in PyTorch's own words."""

from __future__ import annotations

_FRAGMENTED = (
    " If reserved but unallocated memory is large try setting PYTORCH_CUDA_ALLOC_CONF=expandable_segments:True to "
    "avoid fragmentation.  See documentation for Memory Management  "
    "(https://docs.pytorch.org/docs/stable/notes/cuda.html#optimizing-memory-usage-with-pytorch-cuda-alloc-conf)"
)
_ADDRESSES = (
    " expandable_segments is enabled. If instead the process is running out of virtual address space (VSZ), expandable "
    "segments may be over-reserving VA (each segment reserves ~9/8 of device memory, times the number of streams); "
    "reduce it via PYTORCH_CUDA_ALLOC_CONF expandable_segments_reserve / expandable_segments_reserve_by_class."
)


class OutOfMemory(Exception):
    """A request that the card cannot serve. Sizes in bytes."""

    def __init__(
        self,
        size: int,
        *,
        segment: int,
        capacity: int,
        reserved: int,
        allocated: int,
        limit: int | None = None,
        expandable: bool = False,
        torch: tuple[int, int],
    ) -> None:
        super().__init__(f"out of memory: {size} bytes asked, {reserved} of {capacity} reserved")
        self.size = size
        self.segment = segment
        """What the allocator wanted from the card to serve it."""
        self.capacity = capacity
        self.reserved = reserved
        self.allocated = allocated
        self.limit = limit
        self.expandable = expandable
        """Whether its segments can grow."""
        self.torch = torch
        """Whose allocator it was, (major, minor)."""

    def message(self, total: int, context: int) -> str:
        """As that torch, 2.11 to 2.15, words it (`DeviceCachingAllocator::malloc`); what it says of the request is
        the segment's size.

        Args:
            total: the card's memory.
            context: what the process uses of it besides the allocator.
        """
        in_use = self.reserved + context
        others = max(0, total - context - self.capacity)  # what the allocator was told to leave alone
        held = f"Other processes are taken to have {_size(others)} memory in use. " if others else ""
        allowed = "" if self.limit is None else f" {_size(self.limit)} allowed;"
        return (
            f"CUDA out of memory. Tried to allocate {_size(self.segment)}. GPU 0 has a total capacity of "
            f"{_size(total)} of which {_size(max(0, total - in_use - others))} is free. {held}Including "
            f"non-PyTorch memory, this process has {_size(in_use)} memory in use.{allowed} Of the allocated memory "
            f"{_size(self.allocated)} is allocated by PyTorch, and {_size(self.reserved - self.allocated)} is reserved "
            f"by PyTorch but unallocated.{self._advice()}"
        )

    def _advice(self) -> str:
        if not self.expandable or self.torch < (2, 14):
            return _FRAGMENTED
        return _ADDRESSES if self.torch >= (2, 15) else ""


def _size(size: int) -> str:
    """`format_size` of c10/cuda/CUDACachingAllocator.cpp."""
    if size <= 1024:
        return f"{size} bytes"
    if size <= 1024**2:
        return f"{size / 1024:.2f} KiB"
    if size <= 1024**3:
        return f"{size / 1024**2:.2f} MiB"
    return f"{size / 1024**3:.2f} GiB"
