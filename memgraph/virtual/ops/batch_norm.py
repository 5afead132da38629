"""Batch norm goes to cuDNN where a build for CUDA sends it: a CPU-only build knows no cuDNN.

Source: aten/src/ATen/native/Normalization.cpp (`_select_batch_norm_backend`, `_batch_norm_impl_index`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor
from torch._ops import OpOverload

from memgraph.virtual.ops.dispatch import run_composite

aten = torch.ops.aten
_MOST_SAMPLES = {True: 880801, False: 65535}
"""In training and in evaluation."""
_LEAST_EPSILON = 0.0
"""`CUDNN_BN_MIN_EPSILON` since cuDNN 7.5."""


def _impl_index(
    source: Tensor, weight: Tensor | None, bias: Tensor | None, mean: Tensor | None, variance: Tensor | None,
    training: bool, momentum: float, eps: float, cudnn_enabled: bool,
) -> Any:  # fmt: skip
    """`_batch_norm_impl_index`: results, what is kept for the backward, and whose it is."""
    func, rest = aten._batch_norm_impl_index.default, (mean, variance, training, momentum, eps)
    if weight is None or bias is None or not (cudnn_enabled and _takes(source, weight, mean, variance, training, eps)):
        return run_composite(func, source, weight, bias, *rest, False)
    last = torch._prims_common.suggest_memory_format(source)
    made = aten.cudnn_batch_norm(source.contiguous(memory_format=last), weight, bias, *rest)
    return *made, 1


def _takes(
    source: Tensor, weight: Tensor, mean: Tensor | None, variance: Tensor | None, training: bool, eps: float
) -> bool:
    narrow = torch.bfloat16 in (source.dtype, weight.dtype) or source.dtype is torch.float16 is weight.dtype
    tracked = mean is not None and variance is not None
    return (
        not narrow
        and (tracked or (training and mean is None and variance is None))
        and source.dim() >= 3 and source.shape[0] <= _MOST_SAMPLES[training]
        and eps >= _LEAST_EPSILON and source.numel() < 2**31 - 1
    )  # fmt: skip


COMPOSITES: Mapping[OpOverload, Callable[..., Any]] = {aten._batch_norm_impl_index.default: _impl_index}
