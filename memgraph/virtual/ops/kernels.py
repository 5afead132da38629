"""What ops return for tensors without values, where torch itself does not know: ops with a CUDA kernel and no meta one.

Each is called with the recorder as the active mode, so that what it makes is fake. One that answers NotImplemented
leaves the call to torch.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch._ops import OpOverload
from torch._subclasses.fake_tensor import FakeTensor, unset_fake_temporarily

from memgraph.gpu.rules.layout import contiguous_stride
from memgraph.virtual.ops import grid_sample, linalg, quantized, sampled, sync_batch_norm
from memgraph.virtual.values import known as values

aten = torch.ops.aten
Kernel = Callable[..., Any]
_MAXIMUM = 2
"""`mode` of an embedding bag that takes the maximum."""


def kernels(state: Callable[[str], None]) -> Mapping[OpOverload, Kernel]:
    """All of them.

    Args:
        state: told what is assumed.
    """

    def pack(source: Tensor, lengths: Tensor, batch_first: bool) -> tuple[Tensor, Tensor]:
        """`_pack_padded_sequence` (aten/src/ATen/native/PackedSequence.cpp): how many sequences reach each step is a
        CPU tensor with values."""
        batch, steps = source.shape[:2] if batch_first else source.shape[1::-1]
        known = values.known(lengths) if isinstance(lengths, FakeTensor) else lengths
        if known is None:
            state("sequences of unknown lengths are packed as if each had the full length")
        with unset_fake_temporarily():
            longest = [steps] * batch if known is None else known.tolist()
            sizes = [sum(length > step for length in longest) for step in range(max(longest, default=0))]
            reached = torch.tensor(sizes, dtype=torch.int64)
        return source.new_empty((sum(sizes), *source.shape[2:])), reached

    def left_aligned(_source: Tensor, _mask: Tensor) -> bool:
        """`_nested_tensor_from_mask_left_aligned`, by which `nn.TransformerEncoder` asks whether its batch can become a
        nested tensor. Those are not followed: the answer is that it cannot, and padding is carried along."""
        state("a padded batch that nn.TransformerEncoder takes as a nested tensor where its padding comes last is "
              "taken with its padding, as with enable_nested_tensor=False: at most that much is needed")  # fmt: skip
        return False

    return {
        aten._pack_padded_sequence.default: pack,
        aten._nested_tensor_from_mask_left_aligned.default: left_aligned,
        aten._thnn_fused_gru_cell.default: _gru_cell,
        aten._thnn_fused_gru_cell_backward.default: _gru_cell_backward,
        aten.mse_loss.default: _elementwise_loss,
        aten.smooth_l1_loss.default: _elementwise_loss,
        aten.soft_margin_loss.default: _elementwise_loss,
        aten.binary_cross_entropy.default: _binary_cross_entropy,
        aten._embedding_bag.default: _embedding_bag,
        aten._embedding_bag_forward_only.default: _embedding_bag,
        aten._scaled_dot_product_cudnn_attention.default: _cudnn_attention,
        aten._index_put_impl_.default: _put,
        aten.col2im.default: _col2im,
        aten.multi_margin_loss_backward.default: _like_second,
        aten.multilabel_margin_loss_backward.default: _like_second,
        aten._grouped_mm.default: _grouped_mm,
        aten._scaled_mm.default: _scaled_mm,
        aten.fractional_max_pool3d_backward.default: _like_second,
        aten.mse_loss_backward.default: _loss_backward,
        aten.smooth_l1_loss_backward.default: _loss_backward,
        aten.huber_loss_backward.default: _loss_backward,
        **grid_sample.KERNELS,
        aten._softmax_backward_data.default: _softmax_backward,
        aten._log_softmax_backward_data.default: _softmax_backward,
        **linalg.KERNELS,
        **quantized.KERNELS,
        **sync_batch_norm.KERNELS,
        **sampled.KERNELS,
    }


def _like_second(_grad: Tensor, source: Tensor, *_: Any) -> Tensor:
    """aten/src/ATen/native/cuda/MultiMarginLoss.cu, MultiLabelMarginCriterion.cu, FractionalMaxPool3d.cu."""
    return torch.empty_like(source, memory_format=torch.contiguous_format)


def _softmax_backward(grad: Tensor, _output: Tensor, _dim: int, input_dtype: torch.dtype) -> Tensor:
    """aten/src/ATen/native/SoftMax.cpp (`TORCH_META_FUNC(_softmax_backward_data)`): row-major. torch's own formula for
    tensors without values keeps the strides of a transposed gradient. Measured: `speech` of the recorded runs."""
    to_half = grad.dtype is torch.float32 and input_dtype is torch.float16
    dtype = torch.float16 if to_half else grad.dtype
    return torch.empty_like(grad, dtype=dtype, memory_format=torch.contiguous_format)


def _loss_backward(_grad: Tensor, source: Tensor, *_: Any) -> Tensor:
    """aten/src/ATen/native/BinaryOps.cpp, Loss.cpp (`mse_loss_backward` and its like): row-major zeros that are written
    over. torch's own formula keeps the strides, and divides by a number of elements that may be none. Measured:
    `diffusion` of the recorded runs."""
    return torch.empty_like(source, memory_format=torch.contiguous_format)


def _put(target: Tensor, indices: Sequence[Tensor | None], *_: Any) -> Tensor:
    """aten/src/ATen/native/cuda/Indexing.cu (`makeLinearIndex`): indices may be on the host, as those of a forward
    whose gradient is put. torch's formula for tensors without values allows that in the forward alone."""
    elsewhere = any(index is not None and index.device != target.device for index in indices)
    return target if elsewhere else NotImplemented


def _col2im(columns: Tensor, size: Sequence[int], kernel: Sequence[int], *_: Any) -> Tensor:
    """aten/src/ATen/native/cuda/Col2Im.cu: the result is made as large as the columns, and keeps that storage."""
    shape = (*columns.shape[:-2], columns.shape[-2] // math.prod(kernel), *size)
    return columns.new_empty(max(columns.numel(), math.prod(shape))).as_strided(shape, contiguous_stride(shape))


def _grouped_mm(
    first: Tensor, second: Tensor, ends: Tensor | None = None, bias: Tensor | None = None,
    dtype: torch.dtype | None = None,
) -> Any:  # fmt: skip
    """aten/src/ATen/native/cuda/GroupedBlas.cpp: types other than bfloat16, which torch's meta kernel refuses, are one
    product after the other. Rows of the result are padded to 16 bytes (`create_grouped_gemm_output_tensor`)."""
    groups = () if ends is None else (ends.shape[0],)
    if first.dim() == second.dim() == 2:
        shape: tuple[int, ...] = (*groups, first.shape[0], second.shape[1])
    elif first.dim() == second.dim():
        shape = (first.shape[0], first.shape[1], second.shape[2])
    else:
        shape = (first.shape[-2], second.shape[-1])
    kind = dtype or first.dtype
    padded = -(-shape[-1] * kind.itemsize // 16) * 16 // kind.itemsize
    strides = contiguous_stride((*shape[:-1], padded))
    return torch.empty_strided(shape, strides, dtype=kind, device=first.device)


def _scaled_mm(
    first: Tensor, second: Tensor, scale_a: Tensor, scale_b: Tensor, bias: Tensor | None = None,
    scale_result: Tensor | None = None, out_dtype: torch.dtype | None = None, use_fast_accum: bool = False,
) -> Any:  # fmt: skip
    """aten/src/ATen/native/cuda/ScaledBlas.cpp: what a card refuses and torch's meta kernel does not."""
    if bias is not None and out_dtype is torch.float32:
        raise RuntimeError("Bias is not supported when out_dtype is set to Float32")
    return NotImplemented


def _gru_cell(input_gates: Tensor, hidden_gates: Tensor, hx: Tensor, *_: Any) -> tuple[Tensor, Tensor]:
    """aten/src/ATen/native/cuda/RNN.cu, `_thnn_fused_gru_cell_cuda`: five values are kept for each hidden element."""
    workspace = hx.new_empty((hx.shape[0], 5 * hx.shape[1]))
    return hx.new_empty(hx.shape), workspace


def _gru_cell_backward(grad: Tensor, workspace: Tensor, has_bias: bool) -> tuple[Tensor | None, ...]:
    batch, gates = workspace.shape[0], 3 * workspace.shape[1] // 5
    biases = [workspace.new_empty(gates) if has_bias else None for _ in range(2)]
    return workspace.new_empty((batch, gates)), workspace.new_empty((batch, gates)), grad.new_empty(grad.shape), *biases


def _embedding_bag(
    weight: Tensor, indices: Tensor, offsets: Tensor, _scale: bool = False, mode: int = 0, _sparse: bool = False,
    _weights: Tensor | None = None, include_last_offset: bool = False, _padding: int = -1,
) -> tuple[Tensor, ...]:  # fmt: skip
    """aten/src/ATen/native/cuda/EmbeddingBag.cu, `_embedding_bag_cuda`; other than on a CPU, all of it is kept."""
    bags = offsets.shape[0] - int(include_last_offset)
    index = indices if indices.dtype is torch.int64 else offsets
    maxima = (bags, weight.shape[1]) if mode == _MAXIMUM else (0,)
    return (
        weight.new_empty((bags, weight.shape[1])),
        index.new_empty(indices.shape[:1]),
        index.new_empty(offsets.shape),
        index.new_empty(maxima),
    )


def _cudnn_attention(
    query: Tensor, key: Tensor, value: Tensor, bias: Tensor | None, statistics: bool, *rest: Any, **scale: Any
) -> Any:
    """aten/src/ATen/native/cudnn/MHA.cpp: without a backward to come there are no statistics, which torch's meta kernel
    makes always. Measured: `b32_s512_freeze_vision` of the recorded runs."""
    if statistics:
        return NotImplemented
    result, _, *others = aten._scaled_dot_product_cudnn_attention(query, key, value, bias, True, *rest, **scale)
    return result, None, *others


def _binary_cross_entropy(source: Tensor, target: Tensor, _: Tensor | None = None, reduction: int = 1) -> Any:
    """aten/src/ATen/native/cuda/Loss.cu (`binary_cross_entropy_out_cuda`): likewise, by `resize_as_`."""
    return _elementwise_loss(source, target, reduction) if source.shape == target.shape else NotImplemented


def _elementwise_loss(source: Tensor, target: Tensor, reduction: int = 1, *_: Any) -> Any:
    """aten/src/ATen/native/BinaryOps.cpp (`TORCH_META_FUNC(mse_loss)`), Loss.cpp: the result is made as large as the
    loss of each element, and becomes a scalar that keeps that storage. Measured: `mse` of the recorded ops."""
    if reduction == 0:
        return NotImplemented
    shape = torch.broadcast_shapes(source.shape, target.shape)
    return torch.empty(shape, dtype=torch.result_type(source, target), device=source.device).as_strided((), ())
