"""What ProcessGroupNCCL refuses before it sends anything, in its words: an error of the script on every card.

Source: torch/csrc/distributed/c10d/ProcessGroupNCCL.cpp (`check_gpu_single_tensor`, `_allgather_base`,
`_reduce_scatter_base`), Utils.hpp (`checkSplitSizes`), torch 2.11 to 2.15.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

_WHOLE = ("allreduce_", "broadcast_", "reduce_", "_allgather_base_", "_reduce_scatter_base_", "alltoall_base_")
"""Collectives whose tensors must be contiguous."""
_LAST = {4: torch.channels_last, 5: torch.channels_last_3d}


def check(name: str, given: Mapping[str, Any], results: Sequence[Tensor], sources: Sequence[Tensor], size: int) -> None:
    """A call as it is made.

    Args:
        name: c10d's operator, `allreduce_`.
        given: its arguments.
        size: ranks in the group.

    Raises:
        ValueError: sizes, ranks or layouts do not go together.
        TypeError: types do not.
    """
    for end in (given[word] for word in ("dst", "src", "root_rank") if isinstance(given.get(word), int)):
        if not 0 <= end < size:
            raise ValueError(f"rank {end} is not in a group of {size}: its ranks are 0 to {size - 1}")
    if name in _WHOLE and not all(_is_contiguous(tensor) for tensor in (*results, *sources)):
        raise ValueError("Tensors must be contiguous")
    if name == "_allgather_base_":
        _check_types(results[0], sources[0], "output tensor must have the same type as input tensor")
        if results[0].numel() != sources[0].numel() * size:
            raise ValueError("output tensor size must be equal to world_size times input tensor size")
    elif name == "_reduce_scatter_base_":
        _check_types(results[0], sources[0], "input tensor must be the same type as the output tensor.")
        if sources[0].numel() != results[0].numel() * size:
            raise ValueError("input tensor must be the same size as output size times world size")
    elif name == "alltoall_base_":
        _check_splits(given["input_split_sizes"], sources[0], size)
        _check_splits(given["output_split_sizes"], results[0], size)


def _is_contiguous(tensor: Tensor) -> bool:
    last = _LAST.get(tensor.dim())
    return tensor.is_contiguous() or (last is not None and tensor.is_contiguous(memory_format=last))


def _check_types(one: Tensor, other: Tensor, text: str) -> None:
    if one.dtype != other.dtype:
        raise TypeError(text)


def _check_splits(splits: Sequence[int], tensor: Tensor, size: int) -> None:
    if not splits:
        if tensor.shape[0] % size:
            raise RuntimeError("Tensor's dim 0 does not divide equally across group size")
    elif len(splits) != size:
        raise RuntimeError("Number of tensor splits not equal to group size")
    elif sum(splits) != tensor.shape[0]:
        raise RuntimeError("Split sizes doesn't match total dim 0 size")
