"""Which kernel `scaled_dot_product_attention` would choose on a GPU.

Source: aten/src/ATen/native/transformers/cuda/sdp_utils.cpp (`select_sdp_backend`, `priority_order`,
`check_prefer_cudnn_attention`, the constraints of each kernel) of torch 2.11 to 2.13. Measured on an H200 with torch
2.11+cu130, cuDNN 9.19: `tests/data/ops_h200_layers.json.gz`, the cases `sdpa default …`.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass

from memgraph.gpu.call import TensorMeta

_HALF = ("float16", "bfloat16")


class Backend(enum.StrEnum):
    """A kernel family."""

    CUDNN = "cudnn"
    FLASH = "flash"
    EFFICIENT = "efficient"
    MATH = "math"


@dataclass(frozen=True)
class Request:
    """One call of scaled-dot-product attention."""

    query: TensorMeta
    """[B, H, S, D]"""
    key: TensorMeta
    value: TensorMeta
    mask: TensorMeta | None
    dropout: float
    causal: bool
    grouped: bool
    """`enable_gqa`: fewer heads in key and value than in query."""
    needs_grad: bool
    mask_needs_grad: bool
    allowed: frozenset[Backend]
    """As `torch.backends.cuda.*_sdp_enabled` and `sdpa_kernel` allow."""
    order: tuple[Backend, ...] = ()
    """As `sdpa_kernel(…, set_priority=True)` wants them tried; the card's own order where it is empty."""


@dataclass(frozen=True)
class Choice:
    """The kernel, and why the ones before it were passed over."""

    backend: Backend
    refusals: tuple[str, ...]


def choose(request: Request, capability: tuple[int, int]) -> Choice:
    """The first kernel in torch's order of preference that takes the call; the math path where none does, which is
    refused itself if it is not allowed."""
    refusals: list[str] = []
    for backend in request.order or preference(capability):
        reason = refusal(backend, request, capability)
        if reason is None:
            return Choice(backend, tuple(refusals))
        refusals.append(f"{backend}: {reason}")
    return Choice(Backend.MATH, tuple(refusals))


def preference(capability: tuple[int, int]) -> tuple[Backend, ...]:
    """cuDNN first on Hopper and data-centre Blackwell (with cuDNN 9.15 or later, which torch 2.11 to 2.15 bring), last
    elsewhere, after the math path: it is taken only where that is not allowed (`Context.h`, `sdp_priority_order`)."""
    if capability[0] in (9, 10):
        return Backend.CUDNN, Backend.FLASH, Backend.EFFICIENT, Backend.MATH
    return Backend.FLASH, Backend.EFFICIENT, Backend.MATH, Backend.CUDNN


def refusal(backend: Backend, request: Request, capability: tuple[int, int]) -> str | None:
    """Why a kernel does not take the call, in a phrase; None if it does."""
    if backend not in request.allowed:
        return "disabled"
    if backend is Backend.MATH:
        return None
    if len(request.query.shape) != 4:
        return "needs four dimensions"
    if 0 in (request.query.shape[2], request.key.shape[2]):
        return "sequences of length 0"  # `check_nonzero_sequence_lengths_dense`
    own = {Backend.CUDNN: _cudnn, Backend.FLASH: _flash, Backend.EFFICIENT: _efficient}[backend]
    return own(request, capability) or _strided(backend, request)


def _strided(backend: Backend, request: Request) -> str | None:
    """Every kernel wants rows whose elements lie side by side, of the mask too: T5's bias, a permuted embedding, goes
    to the math path. (sdp_utils_cpp.h, `check_last_dim_stride_equals_1_dense`; a head dimension of 1 is let through but
    by the memory-efficient kernel.)"""
    one = backend is not Backend.EFFICIENT and request.query.shape[-1] == 1
    if not one and any(tensor.stride[-1] != 1 for tensor in (request.query, request.key, request.value)):
        return "elements of a head are not side by side"
    if request.mask is not None and request.mask.stride[-1] != 1:
        return "elements of the mask's rows are not side by side"
    return None


def _cudnn(request: Request, capability: tuple[int, int]) -> str | None:
    """Heads wider than 128 are for Hopper and data-centre Blackwell (`check_cudnn_tensor_shapes`)."""
    width = request.query.shape[-1]
    if capability < (8, 0):
        return "needs compute capability 8.0"
    if request.query.dtype not in _HALF:
        return f"{request.query.dtype} is not a half type"
    widest = 256 if capability[0] in (9, 10) else 128
    if width % 8 or width > widest or request.value.shape[-1] % 8:
        return f"head dimension {width}"
    if request.mask_needs_grad:
        return "the mask needs a gradient"
    if request.key.shape[2] == 1 or (request.query.shape[2] == 1 and request.dropout):
        return "sequences of length 1"
    return None


def _flash(request: Request, capability: tuple[int, int]) -> str | None:
    width = request.query.shape[-1]
    if capability < (8, 0):
        return "needs compute capability 8.0"
    if request.query.dtype not in _HALF:
        return f"{request.query.dtype} is not a half type"
    if request.mask is not None:
        return "takes no mask"
    if width > 256 or request.value.shape[-1] != width:
        return f"head dimension {width}"
    if not request.grouped and request.query.shape[1] != request.key.shape[1]:
        return "different numbers of heads"
    if request.causal and request.query.shape[2] != request.key.shape[2]:
        return "causal, with queries and keys of different lengths"
    if request.needs_grad and _no_wide_backward(width, request.dropout, capability):
        return f"no gradient for head dimension {width} on this card"
    return None


def _no_wide_backward(width: int, dropout: float, capability: tuple[int, int]) -> bool:
    """Source: `check_requires_grad_and_head_dim_gt192_constraints_on_sm86_89_or_120`."""
    small = (8, 6) <= capability <= (8, 9) or capability[0] == 12
    return small and width > 192 and (width <= 224 or bool(dropout))


def _efficient(request: Request, capability: tuple[int, int]) -> str | None:
    if request.grouped:
        return "takes no grouped heads"
    if request.query.dtype == "bfloat16" and capability < (8, 0):
        return "bfloat16 needs compute capability 8.0"
    if request.query.dtype not in (*_HALF, "float32"):
        return f"{request.query.dtype}"
    alignment = 16 // request.query.itemsize if capability >= (8, 0) or request.query.dtype != "float32" else 1
    if capability >= (8, 0) and (request.query.shape[-1] % alignment or request.value.shape[-1] % alignment):
        return f"head dimension {request.query.shape[-1]} is not a multiple of {alignment}"
    return None
