"""`grid_sample` goes to cuDNN where a build for CUDA sends it: a CPU-only build knows no cuDNN, and torch has no meta
kernel of cuDNN's ops.

Sources: aten/src/ATen/native/GridSampler.cpp (`grid_sampler`), GridSamplerUtils.h (`cond_cudnn_grid_sampler`),
cudnn/GridSampler.cpp.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor
from torch._ops import OpOverload

from memgraph.virtual.ops.dispatch import run_composite

aten = torch.ops.aten
_BILINEAR, _ZEROS = 0, 0
"""Values of `interpolation_mode` and `padding_mode`."""
_MOST_CHANNELS = 1024
_MOST_ELEMENTS = 2**31 - 1
_TYPES = (torch.float64, torch.float32, torch.float16)


def _grid_sampler(source: Tensor, grid: Tensor, mode: int, padding: int, align_corners: bool) -> Any:
    if mode == _BILINEAR and padding == _ZEROS and align_corners and _takes(source, grid):
        return aten.cudnn_grid_sampler(source, grid)
    return run_composite(aten.grid_sampler.default, source, grid, mode, padding, align_corners)


def _takes(source: Tensor, grid: Tensor) -> bool:
    return (
        torch._C._get_cudnn_enabled()
        and source.dim() == grid.dim() == 4 and source.shape[1] <= _MOST_CHANNELS
        and all(each.dtype in _TYPES and 0 < each.numel() <= _MOST_ELEMENTS for each in (source, grid))
    )  # fmt: skip


def _forward(source: Tensor, grid: Tensor) -> Tensor:
    return source.new_empty((*source.shape[:2], *grid.shape[1:3]))


def _backward(source: Tensor, grid: Tensor, _gradient: Tensor) -> tuple[Tensor, Tensor]:
    return source.new_empty(source.shape), grid.new_empty(grid.shape)


COMPOSITES: Mapping[OpOverload, Callable[..., Any]] = {aten.grid_sampler.default: _grid_sampler}
KERNELS: Mapping[OpOverload, Callable[..., Any]] = {
    aten.cudnn_grid_sampler.default: _forward,
    aten.cudnn_grid_sampler_backward.default: _backward,
}
