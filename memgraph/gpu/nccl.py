"""What NCCL takes from the card beside PyTorch's allocator: buffers for each peer and channel of a communicator."""

from __future__ import annotations

import os

from memgraph.units import format_bytes

MEASURED = (365 * 2**20, 525 * 2**20)
"""Bytes that a communicator between two H200 of one node took, NCCL 2.28.9, torch 2.11: the card's used memory less the
context and what PyTorch had reserved. The least with DDP and FSDP, the most where a pipeline sends messages too."""


_KNOBS = (
    "NCCL_BUFFSIZE", "NCCL_LL_BUFFSIZE", "NCCL_LL128_BUFFSIZE", "NCCL_NTHREADS", "NCCL_MIN_NCHANNELS",
    "NCCL_MAX_NCHANNELS", "NCCL_MIN_CTAS", "NCCL_MAX_CTAS", "NCCL_NCHANNELS_PER_NET_PEER", "NCCL_MIN_P2P_NCHANNELS",
    "NCCL_MAX_P2P_NCHANNELS", "NCCL_NVLS_ENABLE", "NCCL_NVLS_NCHANNELS", "NCCL_ALGO", "NCCL_PROTO", "NCCL_P2P_DISABLE",
    "NCCL_P2P_LEVEL", "NCCL_SHM_DISABLE", "NCCL_CUMEM_ENABLE", "NCCL_COLLNET_ENABLE", "NCCL_RUNTIME_CONNECT",
)  # fmt: skip
"""What the environment may say of the number of its channels and peers and of their buffers' sizes (NCCL's user guide,
"Environment Variables")."""


def stated(communicators: int) -> str:
    """A sentence on the memory of so many communicators."""
    least, most = (format_bytes(size) for size in MEASURED)
    each = "the communicator" if communicators == 1 else f"each of {communicators} communicators"
    told = [f"{name}={os.environ[name]}" for name in _KNOBS if os.environ.get(name)]
    unlike = f", and without {', '.join(told)}, which is set here" if told else ""
    return (
        f"NCCL takes memory beside PyTorch's for {each}: {least} to {most} between two H200 (NCCL 2.28.9){unlike}, "
        "more among more ranks; it is not in these figures"
    )
