"""`scaled_dot_product_attention` on the virtual GPU: the kernel that GPU would choose, on every build of torch.

A CPU-only build has no CUDA choice and falls through to the math path; a build with another GPU would choose for that
one. Ours, put in its place by `dispatch.composites_are`, does what aten/src/ATen/native/transformers/attention.cpp does
around the kernels. Tried on torch 2.11 to 2.15.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Callable

import torch
from torch import Tensor
from torch._ops import OpOverload
from torch.nn import functional as F

from memgraph.gpu.attention import Backend, Request, choose
from memgraph.gpu.call import TensorMeta
from memgraph.gpu.specs import GpuSpec

aten = torch.ops.aten


def attention_as_on(
    gpu: GpuSpec, torch_version: tuple[int, int], state: Callable[[str], None],
    by_steps: Callable[[tuple[str, ...]], None] = lambda _: None,
) -> dict[OpOverload, Callable[..., Tensor]]:  # fmt: skip
    """Attention on fake CUDA tensors that takes the kernel that `gpu` would.

    Args:
        state: told what is assumed.
        by_steps: told why each fused kernel was passed over, where all were.
    """

    def attention(
        query: Tensor,
        key: Tensor,
        value: Tensor,
        attn_mask: Tensor | None = None,
        dropout_p: float = 0.0,
        is_causal: bool = False,
        scale: float | None = None,
        enable_gqa: bool = False,
    ) -> Tensor:
        if attn_mask is not None and is_causal and torch_version >= (2, 14):
            state("attention with a mask and is_causal at once, which torch refuses since 2.14, is taken as before it")
        _same_dtype(query, key, value)
        mask = _additive(attn_mask, query)
        choice = choose(_request(query, key, value, mask, dropout_p, is_causal, enable_gqa), gpu.capability)
        backend = choice.backend
        if backend is Backend.MATH:
            by_steps(choice.refusals)
        if backend is Backend.MATH and not torch.backends.cuda.math_sdp_enabled():
            raise RuntimeError("No available kernel. Aborting execution.")  # as `select_sdp_backend`
        return _KERNELS[backend](query, key, value, mask, dropout_p, is_causal, scale)

    return {aten.scaled_dot_product_attention.default: attention}


def backend_of(
    gpu: GpuSpec, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None = None, dropout: float = 0.0,
    causal: bool = False, grouped: bool = False,
) -> Backend:  # fmt: skip
    """The kernel that `gpu` would take."""
    return choose(_request(query, key, value, mask, dropout, causal, grouped), gpu.capability).backend


def _same_dtype(query: Tensor, key: Tensor, value: Tensor) -> None:
    """`validate_sdpa_input` (ATen/native/transformers/attention.cpp) refuses what the kernels could not take."""
    if not query.dtype == key.dtype == value.dtype:
        kinds = ", ".join(f"{name} {tensor.dtype}" for name, tensor in zip("qkv", (query, key, value), strict=True))
        raise RuntimeError(f"Expected query, key, and value to have the same dtype, but got {kinds}")


def _cudnn(
    query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, dropout: float, causal: bool, scale: float | None
) -> Tensor:
    keep = _needs_grad(query, key, value)
    return aten._scaled_dot_product_cudnn_attention(query, key, value, mask, keep, dropout, causal, False, scale=scale)[
        0
    ]


def _flash(
    query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, dropout: float, causal: bool, scale: float | None
) -> Tensor:
    """Head dimensions are padded to a multiple of 8, and the result cut back."""
    width = query.shape[-1]
    padding = -width % 8
    if padding:
        query, key, value = (F.pad(tensor, (0, padding)) for tensor in (query, key, value))
        scale = 1.0 / math.sqrt(width) if scale is None else scale
    result = aten._scaled_dot_product_flash_attention(query, key, value, dropout, causal, False, scale=scale)[0]
    return result[..., :width] if padding else result


def _efficient(
    query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, dropout: float, causal: bool, scale: float | None
) -> Tensor:
    bias = None if mask is None else _aligned(mask).expand(*query.shape[:3], key.shape[2])
    keep = _needs_grad(query, key, value)
    return aten._scaled_dot_product_efficient_attention(query, key, value, bias, keep, dropout, causal, scale=scale)[0]


def _aligned(mask: Tensor) -> Tensor:
    """The kernel loads masks 16 bytes at a time: rows are padded to a multiple of 8 elements, and cut back as a
    view."""
    columns = mask.shape[-1]
    if columns % 8 == 0 or columns == 1:
        return mask
    return F.pad(mask, (0, -columns % 8))[..., :columns]


def _math(
    query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, dropout: float, causal: bool, scale: float | None
) -> Tensor:
    _HERE.masks = True
    try:
        return aten._scaled_dot_product_attention_math(
            query, key, value, mask, dropout, causal and mask is None, None, scale=scale,
            enable_gqa=query.shape[1] != key.shape[1],
        )[0]  # fmt: skip
    finally:
        _HERE.masks = False


class _Here(threading.local):
    masks = False


_HERE = _Here()


def adds_mask() -> bool:
    """Whether this thread is inside the attention that is made of other ops, which adds nothing but its mask: to the
    scores in place, had those no dispatch mode (`_scaled_dot_product_attention_math` of attention.cpp)."""
    return _HERE.masks


_KERNELS = {Backend.CUDNN: _cudnn, Backend.FLASH: _flash, Backend.EFFICIENT: _efficient, Backend.MATH: _math}


def _request(
    query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, dropout: float, causal: bool, grouped: bool
) -> Request:
    return Request(
        _meta(query), _meta(key), _meta(value), None if mask is None else _meta(mask), dropout, causal, grouped,
        _needs_grad(query, key, value), mask is not None and mask.requires_grad and torch.is_grad_enabled(),
        allowed_backends(), wanted_order(),
    )  # fmt: skip


_DEFAULT_ORDER = [1, 2, 0, 3, 4]
"""As `Context.h` has it, `SDPBackend` by number: flash, efficient, math, cuDNN, that of a third party."""
_BY_NUMBER = {0: Backend.MATH, 1: Backend.FLASH, 2: Backend.EFFICIENT, 3: Backend.CUDNN}


def wanted_order() -> tuple[Backend, ...]:
    """What `sdpa_kernel([...], set_priority=True)` says; empty where nothing was said."""
    order = torch._C._get_sdp_priority_order()  # type: ignore[attr-defined]
    return () if order == _DEFAULT_ORDER else tuple(_BY_NUMBER[number] for number in order if number in _BY_NUMBER)


def allowed_backends() -> frozenset[Backend]:
    """What `torch.backends.cuda` and `sdpa_kernel` allow; cuDNN's is not deterministic."""
    strict = torch.are_deterministic_algorithms_enabled() and not torch.is_deterministic_algorithms_warn_only_enabled()
    enabled = {
        Backend.CUDNN: torch.backends.cuda.cudnn_sdp_enabled() and not strict,
        Backend.FLASH: torch.backends.cuda.flash_sdp_enabled(),
        Backend.EFFICIENT: torch.backends.cuda.mem_efficient_sdp_enabled(),
        Backend.MATH: torch.backends.cuda.math_sdp_enabled(),
    }
    return frozenset(backend for backend, on in enabled.items() if on)


def _additive(mask: Tensor | None, query: Tensor) -> Tensor | None:
    """A boolean mask becomes an additive one of the query's type (`convert_boolean_attn_mask`, torch 2.11 to 2.15)."""
    if mask is None or mask.dtype is not torch.bool:
        return mask
    least = torch.scalar_tensor(-math.inf, dtype=query.dtype, device=mask.device)
    return torch.where(mask, torch.scalar_tensor(0.0, dtype=query.dtype, device=mask.device), least)


def _needs_grad(*tensors: Tensor) -> bool:
    return torch.is_grad_enabled() and any(tensor.requires_grad for tensor in tensors)


def _meta(tensor: Tensor) -> TensorMeta:
    return TensorMeta(
        tuple(tensor.shape), tensor.stride(), str(tensor.dtype).removeprefix("torch."), tensor.element_size()
    )
