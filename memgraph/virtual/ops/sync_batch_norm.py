"""What the ops of SyncBatchNorm (torch/nn/modules/_functions.py) return: they have CUDA kernels and nothing else.

Source: aten/src/ATen/native/cuda/Normalization.cu; statistics are in the type that sums are kept in.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor
from torch._ops import OpOverload

aten = torch.ops.aten


def _statistics(source: Tensor) -> Tensor:
    """One number a channel."""
    return source.new_empty(source.shape[1], dtype=torch.float64 if source.dtype is torch.float64 else torch.float32)


def _stats(source: Tensor, _eps: float) -> tuple[Tensor, Tensor]:
    return _statistics(source), _statistics(source)


def _gathered(source: Tensor, *_: Any) -> tuple[Tensor, Tensor]:
    return _statistics(source), _statistics(source)


def _normalised(source: Tensor, *_: Any) -> Tensor:
    return torch.empty_like(source)


def _reduced(
    grad: Tensor, source: Tensor, mean: Tensor, _invstd: Tensor, weight: Tensor | None, input_g: bool, weight_g: bool,
    bias_g: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:  # fmt: skip
    def made(like: Tensor, wanted: bool) -> Tensor:
        return torch.empty_like(like) if wanted else like.new_empty(0)

    like = mean if weight is None else weight
    return made(mean, input_g), made(mean, input_g), made(like, weight_g), made(like, bias_g)


def _gradient(_grad: Tensor, source: Tensor, *_: Any) -> Tensor:
    return torch.empty_like(source)


KERNELS: Mapping[OpOverload, Callable[..., Any]] = {
    aten.batch_norm_stats.default: _stats,
    aten.batch_norm_gather_stats_with_counts.default: _gathered,
    aten.batch_norm_elemt.default: _normalised,
    aten.batch_norm_backward_reduce.default: _reduced,
    aten.batch_norm_backward_elemt.default: _gradient,
}
