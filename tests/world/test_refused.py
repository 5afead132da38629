"""Calls that ProcessGroupNCCL refuses are errors here too, in its words."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.distributed as dist

import memgraph


def new(*shape: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return torch.empty(*shape, dtype=dtype, device="cuda")


@pytest.mark.parametrize(
    ("call", "error", "text"),
    [
        (lambda: dist.all_gather_into_tensor(new(7), new(4)), ValueError, "output tensor size must be equal to world"),
        (lambda: dist.all_gather_into_tensor(new(8), new(4, dtype=torch.float16)), TypeError, "the same type as input"),
        (
            lambda: dist.reduce_scatter_tensor(new(4), new(7)),
            ValueError,
            "input tensor must be the same size as output",
        ),
        (lambda: dist.all_to_all_single(new(3), new(3)), RuntimeError, "does not divide equally across group size"),
        (lambda: dist.all_to_all_single(new(4), new(4), [2, 1], [2, 2]), RuntimeError, "doesn't match total dim 0"),
        (lambda: dist.all_reduce(new(4, 8).t()), ValueError, "Tensors must be contiguous"),
        (lambda: dist.broadcast(new(4), src=9), ValueError, "rank 9 is not in|Rank 9|rank 9"),
        (lambda: dist.send(new(4), dst=9), ValueError, "rank 9 is not in a group of 2: its ranks are 0 to 1"),
    ],
)
def test_it_is_refused(call: Callable[[], Any], error: type[Exception], text: str) -> None:
    with memgraph.virtual_gpu("h100", world=2):
        dist.init_process_group("nccl")
        with pytest.raises(error, match=text):
            call()


def test_what_is_right_is_not() -> None:
    """Channels last is contiguous too, and messages need not be."""
    with memgraph.virtual_gpu("h100", world=2):
        dist.init_process_group("nccl")
        dist.all_reduce(new(2, 3, 4, 5).to(memory_format=torch.channels_last))
        dist.send(new(4, 8).t(), dst=1)
        dist.all_to_all_single(new(4), new(3), [1, 3], [1, 2])
        dist.broadcast(new(4), src=1)
