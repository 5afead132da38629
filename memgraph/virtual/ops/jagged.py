"""Attention over jagged tensors on the virtual GPU: which kernel it would take.

torch chooses in Python (torch/nested/_internal/sdpa.py, `_select_sdp_backend`: flash, memory-efficient, math, cuDNN),
and asks C++ whether the GPU at hand can; a build without one says no to all. Tried on torch 2.13.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch.nested._internal import sdpa

from memgraph.gpu.attention import Backend, Request, refusal
from memgraph.gpu.call import TensorMeta
from memgraph.gpu.specs import GpuSpec
from memgraph.virtual.ops.attention import allowed_backends
from memgraph.virtual.patches import replaced


@contextlib.contextmanager
def attention_kernels_of(gpu: GpuSpec) -> Iterator[None]:
    """While open, jagged attention is told what `gpu` can do."""
    names = {
        "can_use_flash_attention": Backend.FLASH,
        "can_use_efficient_attention": Backend.EFFICIENT,
        "can_use_cudnn_attention": Backend.CUDNN,
    }
    with contextlib.ExitStack() as stack:
        for name, backend in names.items():
            stack.enter_context(replaced(sdpa, name, _can_use(backend, gpu)))
        yield


def _can_use(backend: Backend, gpu: GpuSpec) -> Callable[..., bool]:
    def can_use(params: Any, debug: bool = False) -> bool:
        return refusal(backend, _request(params), gpu.capability) is None

    return can_use


def _request(params: Any) -> Request:
    query, key, value = (_meta(tensor) for tensor in (params.query, params.key, params.value))
    mask = None if params.attn_mask is None else _meta(params.attn_mask)
    needs_grad = any(tensor.requires_grad for tensor in (params.query, params.key, params.value))
    return Request(query, key, value, mask, params.dropout, params.is_causal, params.enable_gqa, needs_grad, False,
                   allowed_backends())  # fmt: skip


def _meta(tensor: torch.Tensor) -> TensorMeta:
    """Its heads, width and dtype, which decide; lengths differ, and 2 stands for them."""
    shape = (int(tensor.shape[0]), int(tensor.shape[1]), 2, int(tensor.shape[-1]))
    return TensorMeta(shape, (1, 1, 1, 1), str(tensor.dtype).removeprefix("torch."), tensor.element_size())
