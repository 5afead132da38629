"""Fake quantisation on the virtual GPU: training that is aware of a quantisation to come.

Each op makes its result, and where a gradient will come the mask of what was not clamped. Sources:
aten/src/ATen/native/quantized/FakeQuantPerTensorAffine.cpp and FakeQuantPerChannelAffine.cpp.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor
from torch._ops import OpOverload

aten = torch.ops.aten


def _with_mask(source: Tensor, *_: Any) -> tuple[Tensor, Tensor]:
    """`fake_quantize_*_affine_cachemask`."""
    return torch.empty_like(source), torch.empty_like(source, dtype=torch.bool)


def _learnable(source: Tensor, *_: Any, **__: Any) -> Tensor:
    """`_fake_quantize_learnable_*_affine`."""
    return torch.empty_like(source)


def _learnable_backward(_grad: Tensor, source: Tensor, scale: Tensor, zero_point: Tensor, *_: Any, **__: Any) -> Any:
    """`_fake_quantize_learnable_*_affine_backward`: gradients of the input, the scale and the zero point."""
    return torch.empty_like(source), torch.empty_like(scale), torch.empty_like(zero_point, dtype=scale.dtype)


KERNELS: Mapping[OpOverload, Callable[..., Any]] = {
    aten.fake_quantize_per_tensor_affine_cachemask.default: _with_mask,
    aten.fake_quantize_per_channel_affine_cachemask.default: _with_mask,
    aten._fake_quantize_per_tensor_affine_cachemask_tensor_qparams.default: _with_mask,
    aten._fake_quantize_learnable_per_tensor_affine.default: _learnable,
    aten._fake_quantize_learnable_per_channel_affine.default: _learnable,
    aten._fake_quantize_learnable_per_tensor_affine_backward.default: _learnable_backward,
    aten._fake_quantize_learnable_per_channel_affine_backward.default: _learnable_backward,
}
