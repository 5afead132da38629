"""Ops that take nothing but their outputs."""

from __future__ import annotations

import pytest
import torch

import memgraph


@pytest.mark.parametrize("dims", [1, 2, 3])
def test_replication_pads_go_by_strides(dims: int) -> None:
    """Transposed or channels-last, forward and backward: nothing but the outputs."""
    with memgraph.virtual_gpu("t4") as gpu:
        source = torch.randn(2, *[8] * dims, 3, device="cuda", requires_grad=True)
        padded = torch.nn.functional.pad(source.movedim(-1, 1), (1, 1) * dims, mode="replicate")
        padded.sum().backward()
    assert not gpu.trace.unknown_ops
    assert not [buffer for buffer in gpu.trace.buffers if "temporary" in buffer.name]
