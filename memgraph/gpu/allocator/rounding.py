"""The bytes that the caching allocator takes for a request: those of its block, and of a segment that is new.

From c10/cuda/CUDACachingAllocator.cpp of torch 2.11 to 2.15 (`round_size`, `get_allocation_size`).
"""

from __future__ import annotations

from memgraph.gpu.allocator.config import AllocatorConfig

MIB = 2**20
MIN_BLOCK = 512
SMALL_SIZE = 1 * MIB
SMALL_BUFFER = 2 * MIB
LARGE_BUFFER = 20 * MIB
"""Unless `large_segment_size_mb` says otherwise."""
MIN_LARGE_ALLOC = 10 * MIB
ROUND_LARGE = 2 * MIB


def round_size(size: int, config: AllocatorConfig) -> int:
    """The bytes of the block that a request gets, before splitting decides."""
    if size < MIN_BLOCK:
        return MIN_BLOCK
    divisions = config.divisions_of(size)
    if divisions > 1 and size > MIN_BLOCK * divisions:
        return _next_division(size, divisions)
    return -(-size // MIN_BLOCK) * MIN_BLOCK


def _next_division(size: int, divisions: int) -> int:
    """The next of `divisions` equal steps between the powers of two around `size`."""
    if size & (size - 1) == 0:
        return size
    floor = 1 << (size.bit_length() - 1)
    step = floor // divisions
    return -(-size // step) * step if step else floor * 2


def allocation_size(size: int, large: int = LARGE_BUFFER) -> int:
    """The bytes of the segment that a rounded request needs when no cached block serves it."""
    if size <= SMALL_SIZE:
        return SMALL_BUFFER
    if size < MIN_LARGE_ALLOC:
        return large
    return -(-size // ROUND_LARGE) * ROUND_LARGE
