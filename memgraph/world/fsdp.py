"""FSDP2's own operators, which are made of others."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import Any

import torch
import torch.distributed.fsdp  # it registers them
from torch._ops import OpOverload

_NAMES = ("all_gather_copy_in", "split_with_sizes_copy", "chunk_cat")


def packing(mode: Any) -> Mapping[OpOverload, Callable[..., Any]]:
    """What FSDP2 packs and unpacks with (torch/distributed/fsdp/_fully_shard/_fsdp_collectives.py): the same that a
    CUDA device runs, op by op; their meta kernels say only what comes out.

    Args:
        mode: under which the ops are written down.
    """
    return {func: functools.partial(_as_on_cuda, func, mode) for func in _existing()}


def _existing() -> list[OpOverload]:
    packets = [getattr(torch.ops.fsdp, name, None) for name in _NAMES]
    return [getattr(packet, overload) for packet in packets if packet for overload in packet.overloads()]


def _as_on_cuda(func: OpOverload, mode: Any, *args: Any, **kwargs: Any) -> Any:
    with mode:
        return func._op_dk(torch._C.DispatchKey.CUDA, *args, **kwargs)
