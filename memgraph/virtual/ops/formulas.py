"""Steps that torch takes in another way for fake tensors than for real ones, put right.

Its C++ writes into a fresh tensor where it has ordinary tensors, and out of place for tensor subclasses and under
dispatch modes (`isTensorSubclassLike`, `areAnyTensorSubclassLike`): a buffer more than a real run has.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch._ops import OpOverload

from memgraph.virtual.ops import batch_norm, grid_sample, linalg
from memgraph.virtual.ops.dispatch import run_composite

aten = torch.ops.aten


_linear_of_torch: Callable[..., Tensor] = functools.partial(
    aten.linear.default._op_dk, torch._C.DispatchKey.CompositeImplicitAutograd
)
"""As `run_composite`, which looks the key up at each call."""


def _linear(source: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """aten/src/ATen/native/Linear.cpp: a bias that cannot be fused is added in place."""
    if bias is None or source.dim() < 3 or source.is_contiguous():
        return _linear_of_torch(source, weight, bias)
    return torch.matmul(source, weight.t()).add_(bias)


def _value_selecting_reduction_backward(
    grad: Tensor, dim: int, indices: Tensor, sizes: Sequence[int], keepdim: bool
) -> Tensor:
    """aten/src/ATen/native/ReduceOps.cpp: the gradient of a maximum, median or sort is scattered into zeros."""
    if not keepdim and len(sizes) > 0:
        grad, indices = grad.unsqueeze(dim), indices.unsqueeze(dim)
    return grad.new_zeros(sizes).scatter_(dim, indices, grad)


def _embedding_bag_backward(
    grad: Tensor, indices: Tensor, offsets: Tensor, offset2bag: Tensor, bag_size: Tensor, maxima: Tensor, weights: int,
    scale: bool, mode: int, sparse: bool, per_sample: Tensor | None, padding: int = -1,
) -> Tensor:  # fmt: skip
    """aten/src/ATen/native/EmbeddingBag.cpp: one of two other ops, which a real run's allocations belong to."""
    if not sparse:
        return aten._embedding_bag_dense_backward(
            grad, indices, offset2bag, bag_size, maxima, weights, scale, mode, per_sample, padding
        )
    return aten._embedding_bag_sparse_backward(
        grad, indices, offsets, offset2bag, bag_size, weights, scale, mode, per_sample, padding
    )


def _gather_backward(grad: Tensor, source: Tensor, dim: int, index: Tensor, sparse_grad: bool) -> Tensor:
    """aten/src/ATen/native/TensorAdvancedIndexing.cpp: scattered into zeros."""
    if sparse_grad:
        return aten._gather_sparse_backward(source, dim, index, grad)
    return grad.new_zeros(source.shape).scatter_add_(dim, index, grad)


def _index_select_backward(grad: Tensor, sizes: Sequence[int], dim: int, index: Tensor) -> Tensor:
    """The same file: added into zeros."""
    return grad.new_zeros(sizes).index_add_(dim, index, grad)


def _masked_select_backward(grad: Tensor, source: Tensor, mask: Tensor) -> Tensor:
    """The same file: what was selected, back in zeros."""
    shape = torch.broadcast_shapes(source.shape, mask.shape)
    return torch.zeros_like(source.expand(shape)).masked_scatter_(mask, grad)


def _trace_backward(grad: Tensor, sizes: Sequence[int]) -> Tensor:
    """torch/csrc/autograd/FunctionsManual.cpp: the diagonal of zeros is filled."""
    flat = grad.new_zeros(sizes[0] * sizes[1])
    places = torch.arange(0, flat.numel(), sizes[1] + 1, dtype=torch.int64, device=grad.device)
    return flat.index_fill_(0, places, grad).view(sizes)


def _cummaxmin_backward(grad: Tensor, source: Tensor, indices: Tensor, dim: int) -> Tensor:
    """aten/src/ATen/native/ReduceOps.cpp: scattered into zeros."""
    return source.new_zeros(source.shape).scatter_add_(dim, indices, grad) if source.numel() else source


def _cumprod_backward(grad: Tensor, source: Tensor, dim: int, output: Tensor) -> Tensor:
    """The same file: where no element is zero, which is asked, a running sum from the end, divided by the elements."""
    if source.numel() <= 1 or source.shape[dim] == 1:
        return grad
    weighted = output.conj() * grad
    zero = source == 0
    if bool(zero.any()):
        return run_composite(aten.cumprod_backward.default, grad, source, dim, output)
    flipped = weighted.flip(dim)
    sums = flipped.cumsum(dim)
    back = sums.flip(dim)
    del flipped, sums
    return back.div(source.conj())


def _is_all_true(source: Tensor) -> Tensor:
    """aten/src/ATen/native/ReduceOps.cpp: `all` under another name."""
    return source.all()


def _is_any_true(source: Tensor) -> Tensor:
    """The same of `any`; `torch.autograd.set_detect_anomaly` asks it of each gradient."""
    return source.any()


def _allclose(
    source: Tensor, other: Tensor, rtol: float = 1e-05, atol: float = 1e-08, equal_nan: bool = False
) -> bool:  # fmt: skip
    """aten/src/ATen/native/TensorCompare.cpp: whether all are close is read on the host."""
    return bool(torch.isclose(source, other, rtol, atol, equal_nan).all())


def _one_hot(source: Tensor, classes: int = -1) -> Tensor:
    """aten/src/ATen/native/Onehot.cpp: ones are scattered into zeros; for fakes each class is compared."""
    if not source.numel() or source.dtype is not torch.int64:
        result: Tensor = run_composite(aten.one_hot.default, source, classes)
        return result
    if classes == -1:
        classes = int(source.max().item()) + 1
    return source.new_zeros((*source.shape, classes)).scatter_(-1, source.unsqueeze(-1), 1)


def _masked_scatter_backward(grad: Tensor, mask: Tensor, sizes: Sequence[int]) -> Tensor:
    """aten/src/ATen/native/TensorAdvancedIndexing.cpp, `masked_scatter_backward_symint`: what was selected, and zeros
    up to the size of the source."""
    selected = grad.masked_select(mask)
    missing = math.prod(sizes) - selected.numel()
    if missing > 0:
        selected = torch.cat([selected, grad.new_zeros(missing)])
    return selected.view(sizes)


def _cov(
    source: Tensor, *, correction: int = 1, fweights: Tensor | None = None, aweights: Tensor | None = None
) -> Tensor:
    """aten/src/ATen/native/Correlation.cpp. It asks the device whether the weights can be used, and goes on where they
    can: the answer is taken to be yes."""
    rows = source if source.dim() == 2 else source.view(1, -1)
    weights = _weights(rows, fweights, aweights)
    if weights is None:
        return run_composite(aten.cov.default, source, correction=correction)
    total = weights.sum()
    mean = (rows * weights).sum(1) / total
    factor = total if correction == 0 else total - correction
    if aweights is not None and correction:
        factor = total - correction * (weights * aweights).sum() / total
    factor.le(0)
    if rows.shape[1] == 1 and (fweights is None) != (aweights is None):
        centred = rows.zero_() if rows.is_floating_point() or rows.is_complex() else rows.zero_().float()
    else:
        centred = rows - mean.unsqueeze(1)
    product = torch.mm(centred, (centred * weights).t().conj())
    if product.is_complex():
        product = torch.complex(product.real, torch.zeros_like(product.real))
    return torch.true_divide(product, factor).squeeze()


def _weights(rows: Tensor, fweights: Tensor | None, aweights: Tensor | None) -> Tensor | None:
    """The product of both, each checked as `cov` does."""
    for name, weights, fits in (
        ("fweights", fweights, lambda dtype: not dtype.is_floating_point and not dtype.is_complex),
        ("aweights", aweights, lambda dtype: dtype.is_floating_point),
    ):
        if weights is None:
            continue
        if weights.dim() > 1 or weights.numel() != rows.shape[1] or not fits(weights.dtype):
            raise RuntimeError(
                f"cov(): expected {name} to be a row with one {'integer' if name == 'fweights' else 'real number'} "
                f"for each of {rows.shape[1]} observations, but got {tuple(weights.shape)} of {weights.dtype}"
            )
        if weights.numel():
            weights.min().ge(0)
    if fweights is None or aweights is None:
        return aweights if fweights is None else fweights
    return fweights * aweights


COMPOSITES: dict[OpOverload, Callable[..., Any]] = {
    aten.linear.default: _linear,
    aten.value_selecting_reduction_backward.default: _value_selecting_reduction_backward,
    aten._embedding_bag_backward.default: _embedding_bag_backward,
    aten._is_all_true.default: _is_all_true,
    aten._is_any_true.default: _is_any_true,
    aten.allclose.default: _allclose,
    aten.one_hot.default: _one_hot,
    aten.cov.default: _cov,
    aten.gather_backward.default: _gather_backward,
    aten.index_select_backward.default: _index_select_backward,
    aten.masked_select_backward.default: _masked_select_backward,
    aten.trace_backward.default: _trace_backward,
    aten.cummaxmin_backward.default: _cummaxmin_backward,
    aten.cumprod_backward.default: _cumprod_backward,
    **batch_norm.COMPOSITES,
    **grid_sample.COMPOSITES,
    **linalg.COMPOSITES,
    aten.masked_scatter_backward.default: _masked_scatter_backward,
}
