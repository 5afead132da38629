"""Encoder layers without a gradient: `nn.MultiheadAttention` and `nn.TransformerEncoderLayer` take one op for the whole
layer then, whose CUDA kernel is made of the ops below, in this order.

Sources: aten/src/ATen/native/transformers/transformer.cpp (`transformer_encoder_layer_forward`),
transformers/cuda/attention.cu (`native_multi_head_attention_cuda`), transformers/attention.cpp (`qkv_projection`,
`masked_softmax`, `transform0213_gemm_nt_bias`). Tensors of tensors (`enable_nested_tensor`) are not followed.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor
from torch._ops import OpOverload
from torch.nn import functional as F

from memgraph.gpu.attention import Backend

aten = torch.ops.aten
BackendOf = Callable[[Tensor, Tensor, Tensor], Backend]
"""The kernel that attention on query, key and value would take."""


def composites(backend_of: BackendOf) -> Mapping[OpOverload, Callable[..., Any]]:
    """Both ops."""

    def attention(
        query: Tensor, key: Tensor, value: Tensor, width: int, heads: int, qkv_weight: Tensor, qkv_bias: Tensor,
        out_weight: Tensor, out_bias: Tensor, mask: Tensor | None = None, need_weights: bool = True,
        average: bool = True, mask_type: int | None = None,
    ) -> tuple[Tensor, Tensor]:  # fmt: skip
        head = width // heads
        if query is key is value and head % 8 == 0 and not need_weights and mask is None:
            views = [_heads(part, heads) for part in (query, query, query)]
            if backend_of(*views) in (Backend.FLASH, Backend.EFFICIENT, Backend.CUDNN):
                q, k, v = (_heads(part, heads) for part in F.linear(query, qkv_weight, qkv_bias).chunk(3, -1))
                y = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(query.shape)
                return F.linear(y, out_weight, out_bias), query.new_empty(0)
        return _by_hand(query, key, value, heads, qkv_weight, out_weight, out_bias, mask, need_weights, average)

    def layer(
        source: Tensor, width: int, heads: int, qkv_weight: Tensor, qkv_bias: Tensor, out_weight: Tensor,
        out_bias: Tensor, use_gelu: bool, norm_first: bool, eps: float, weight1: Tensor, bias1: Tensor, weight2: Tensor,
        bias2: Tensor, up: Tensor, up_bias: Tensor, down: Tensor, down_bias: Tensor, mask: Tensor | None = None,
        mask_type: int | None = None,
    ) -> Tensor:  # fmt: skip
        def norm(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
            return F.layer_norm(x, (width,), weight, bias, eps)

        x = norm(source, weight1, bias1) if norm_first else source
        x = attention(x, x, x, width, heads, qkv_weight, qkv_bias, out_weight, out_bias, mask, False, True, mask_type)[
            0
        ]
        x.add_(source)
        before = x = x if norm_first else norm(x, weight1, bias1)
        x = norm(x, weight2, bias2) if norm_first else x
        inner = aten._addmm_activation(up_bias, x.flatten(0, 1), up.t(), use_gelu=use_gelu)
        x = torch.addmm(down_bias, inner, down.t()).view(source.shape)
        del inner
        x.add_(before)
        return x if norm_first else norm(x, weight2, bias2)

    return {aten._native_multi_head_attention.default: attention, aten._transformer_encoder_layer_fwd.default: layer}


def _heads(tensor: Tensor, heads: int) -> Tensor:
    return tensor.view(*tensor.shape[:2], heads, tensor.shape[-1] // heads).transpose(1, 2)


def _by_hand(
    query: Tensor, key: Tensor, value: Tensor, heads: int, qkv_weight: Tensor, out_weight: Tensor, out_bias: Tensor,
    mask: Tensor | None, need_weights: bool, average: bool,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """Scores, softmax (`_masked_softmax_cuda`) and product; the query's part of the packed buffer is used again for the
    result."""
    batch, length, width = query.shape
    projected = torch.matmul(query, qkv_weight.t()) if query is key is value else _packed(query, key, value, qkv_weight)
    q, k, v = query.new_empty(3, batch * heads, length, width // heads).unbind(0)
    del projected
    scores = torch.bmm(q, k.transpose(1, 2)).view(batch, heads, length, length)
    if mask is not None:  # without one it is in place
        scores = torch.empty_like(scores)
    torch.bmm(scores.view(batch * heads, length, length), v, out=q)
    weights = scores if need_weights else None
    del scores
    joined = q.view(batch, heads, length, width // heads).permute(0, 2, 1, 3).contiguous().view(batch, length, width)
    result = F.linear(joined, out_weight, out_bias)
    if weights is None:
        return result, query.new_empty(0)
    return result, weights.sum(1).div_(heads) if average else weights


def _packed(query: Tensor, key: Tensor, value: Tensor, qkv_weight: Tensor) -> Tensor:
    parts = [torch.matmul(x, w.t()) for x, w in zip((query, key, value), qkv_weight.chunk(3), strict=True)]
    return torch.cat(parts, 2)
