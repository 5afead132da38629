"""The allocator's refusal, in PyTorch's own words."""

from __future__ import annotations


class OutOfMemory(Exception):
    """A request that the card cannot serve. Sizes in bytes."""

    def __init__(self, size: int, *, capacity: int, reserved: int, allocated: int, limit: int | None = None) -> None:
        super().__init__(f"out of memory: {size} bytes asked, {reserved} of {capacity} reserved")
        self.size = size
        self.capacity = capacity
        self.reserved = reserved
        self.allocated = allocated
        self.limit = limit

    def message(self, total: int, context: int) -> str:
        """As torch 2.11 to 2.15 word it (`DeviceCachingAllocator::malloc`).

        Args:
            total: the card's memory.
            context: what the process uses of it besides the allocator.
        """
        in_use = self.reserved + context
        allowed = "" if self.limit is None else f" {_size(self.limit)} allowed;"
        return (
            f"CUDA out of memory. Tried to allocate {_size(self.size)}. GPU 0 has a total capacity of {_size(total)} "
            f"of which {_size(max(0, total - in_use))} is free. Including non-PyTorch memory, this process has "
            f"{_size(in_use)} memory in use.{allowed} Of the allocated memory {_size(self.allocated)} is allocated "
            f"by PyTorch, and {_size(self.reserved - self.allocated)} is reserved by PyTorch but unallocated. If "
            "reserved but unallocated memory is large try setting PYTORCH_ALLOC_CONF=expandable_segments:True to avoid "
            "fragmentation.  See documentation for Memory Management  "
            "(https://pytorch.org/docs/stable/notes/cuda.html#environment-variables)"
        )


def _size(size: int) -> str:
    """`format_size` of c10/cuda/CUDACachingAllocator.cpp."""
    if size <= 1024:
        return f"{size} bytes"
    if size <= 1024**2:
        return f"{size / 1024:.2f} KiB"
    if size <= 1024**3:
        return f"{size / 1024**2:.2f} MiB"
    return f"{size / 1024**3:.2f} GiB"
