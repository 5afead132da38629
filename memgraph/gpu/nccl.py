"""What NCCL takes from the card beside PyTorch's allocator: buffers for each peer and channel of a communicator."""

from __future__ import annotations

from memgraph.units import format_bytes

MEASURED = (365 * 2**20, 525 * 2**20)
"""Bytes that a communicator between two H200 of one node took, NCCL 2.28.9, torch 2.11: the card's used memory less the
context and what PyTorch had reserved. The least with DDP and FSDP, the most where a pipeline sends messages too."""


def stated(communicators: int) -> str:
    """A sentence on the memory of so many communicators."""
    least, most = (format_bytes(size) for size in MEASURED)
    each = "the communicator" if communicators == 1 else f"each of {communicators} communicators"
    return (
        f"NCCL takes memory beside PyTorch's for {each}: {least} to {most} between two H200 (NCCL 2.28.9), more among "
        "more ranks; it is not in these figures"
    )
