"""`grid_sample` takes cuDNN's op where a build for CUDA would, and copies what that copies."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

import memgraph
from memgraph.trace import Trace

CUDNN = {"mode": "bilinear", "padding_mode": "zeros", "align_corners": True}
SOURCE, GRID = (2, 3, 32, 32), (2, 16, 16, 2)


def trained(grid: Tensor | None = None, dtype: torch.dtype = torch.float32, **options: Any) -> Trace:
    with memgraph.virtual_gpu("h200") as gpu:
        source = torch.randn(SOURCE, device="cuda", dtype=dtype, requires_grad=True)
        places = torch.randn(GRID, device="cuda", dtype=dtype, requires_grad=True) if grid is None else grid
        result = F.grid_sample(source, places, **{**CUDNN, **options})
        result.sum().backward()
    assert result.shape == (2, 3, 16, 16) and source.grad is not None and source.grad.shape == SOURCE
    assert gpu.trace.unknown_ops == ()
    return gpu.trace


@pytest.mark.parametrize(
    ("options", "cudnn"),
    [
        ({}, True),
        ({"dtype": torch.float16}, True),
        ({"dtype": torch.bfloat16}, False),
        ({"mode": "bicubic"}, False),
        ({"padding_mode": "border"}, False),
        ({"align_corners": False}, False),
    ],
)
def test_who_takes_it(options: dict[str, Any], cudnn: bool) -> None:
    names = [op.name for op in trained(**options).ops]
    assert ("aten.cudnn_grid_sampler.default" in names) is cudnn
    assert ("aten.cudnn_grid_sampler_backward.default" in names) is cudnn
    assert ("aten.grid_sampler_2d.default" in names) is not cudnn


@pytest.mark.parametrize(("corners", "copied"), [(True, [2 * 16 * 16 * 2 * 4]), (False, [])])
def test_a_grid_made_of_channels_is_copied_for_cudnn_alone(corners: bool, copied: list[int]) -> None:
    with memgraph.virtual_gpu("h200") as gpu:
        flow = torch.randn(2, 2, 16, 16, device="cuda")
        F.grid_sample(torch.randn(SOURCE, device="cuda"), flow.permute(0, 2, 3, 1), align_corners=corners)
    sampler = next(index for index, op in enumerate(gpu.trace.ops) if "grid_sampler" in op.name)
    sizes = [buffer.size for buffer in gpu.trace.buffers if buffer.op == sampler]
    assert sorted(sizes) == sorted([*copied, 2 * 3 * 16 * 16 * 4])
    assert gpu.trace.unknown_ops == ()
