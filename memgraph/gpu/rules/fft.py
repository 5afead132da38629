"""Fourier transforms: cuFFT takes up to three dimensions at a time; what it works in, PyTorch allocates for each plan.

Source: aten/src/ATen/native/cuda/SpectralOps.cpp (`_fft_c2c_cufft`, `_fft_r2c_cufft`, `_fft_c2r_cufft`, `_exec_fft`),
CuFFTPlanCache.h (`CuFFTConfig`: layouts that cuFFT cannot read are cloned). What a plan works in is in `cufft.py`.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

from memgraph.gpu.call import Call, Steps, Temporary, TensorMeta
from memgraph.gpu.rules import cufft
from memgraph.gpu.rules.layout import Plan, dense, permuted, wrap
from memgraph.gpu.specs import GpuSpec

Version = tuple[int, int]

_MOST = 3
"""Dimensions of one plan (`cufft_max_ndim`)."""
_COMPLEX = {"float16": "complex32", "float32": "complex64", "float64": "complex128"}
_KNOWN, _ESTIMATE = "cuFFT workspace", "cuFFT workspace (estimate)"


class _Transforms:
    """The transforms of one call, one after the other."""

    def __init__(self, call: Call) -> None:
        self.plan = Plan(call)
        self.unsure = False

    def take(self, source: TensorMeta, lengths: Sequence[int], dims: Sequence[int], *, real: bool = False) -> None:
        """A plan along some dimensions of a tensor: `lengths` are those of the signals."""
        batch = math.prod(size for dim, size in enumerate(source.shape) if dim not in dims)
        copy = -1 if _readable(source, dims) else self.plan.temporary(source.nbytes, "contiguous input")
        itemsize = source.itemsize if source.dtype.startswith("complex") else 2 * source.itemsize
        if real:
            strided = source.stride[dims[-1]] > 1
            size, known = cufft.real_workspace(batch, lengths, itemsize, strided=strided)
        else:
            size, known = cufft.complex_workspace(batch, lengths, itemsize)
        self.unsure |= not known
        self.plan.scratch(size, name=_KNOWN if known else _ESTIMATE)
        self.plan.release(copy)

    def steps(self) -> Steps:
        """An estimate of nothing is told too."""
        return (*self.plan.steps(), Temporary(0, _ESTIMATE)) if self.unsure else self.plan.steps()


def _readable(source: TensorMeta, dims: Sequence[int]) -> bool:
    """Whether cuFFT reads the tensor as it lies: batch dimensions in order of their strides collapse into one, and the
    others are as if cut out of a contiguous one."""
    batch = [dim for dim in range(len(source.shape)) if dim not in dims]
    order = sorted(batch, key=lambda dim: -source.stride[dim])
    lined = permuted(source, [*order, *dims])
    pairs = list(zip(lined.shape[: len(order)], lined.stride[: len(order)], strict=True))
    collapses = all(outer[1] == inner[0] * inner[1] for outer, inner in itertools.pairwise(pairs))
    steps = lined.stride[len(order) :]
    nested = all(inner and outer % inner == 0 for outer, inner in itertools.pairwise(steps))
    return collapses and nested and all(steps)


def _c2c(call: Call, gpu: GpuSpec, version: Version) -> Steps:
    """`_fft_c2c(self, dim, normalization, forward)`: with more than three dimensions, between two tensors."""
    source, dims = call.args[0], _dims(call)
    work = _Transforms(call)
    if not dims or not source.numel:
        work.plan.outputs()
        return work.plan.steps()
    _complex_rounds(work, source, dims)
    return work.steps()


def _complex_rounds(work: _Transforms, source: TensorMeta, dims: Sequence[int]) -> None:
    """Rounds of up to three dimensions, the closest together first. All but the last result are given back."""
    left = sorted(dims, key=lambda dim: -source.stride[dim])
    rounds = math.ceil(len(left) / _MOST)
    spare = -1
    if rounds % 2 == 1:
        work.plan.output()
    else:
        spare = work.plan.temporary(source.nbytes, "result so far")
    for number in range(rounds):
        some, left = left[-_MOST:], left[:-_MOST]
        work.take(source, [source.shape[dim] for dim in some], some)
        source = dense(source.shape, source.dtype)
        if number == 0 and rounds > 1:
            if spare >= 0:
                work.plan.output()
            else:
                spare = work.plan.temporary(source.nbytes, "result so far")


def _r2c(call: Call, gpu: GpuSpec, version: Version) -> Steps | None:
    """`_fft_r2c(self, dim, normalization, onesided)`: one plan for up to three dimensions that do not begin with the
    first two; else the last dimension, and the others as complex numbers."""
    source, dims, onesided = call.args[0], _dims(call), call.arg(3, "onesided", True)
    if source.dtype not in _COMPLEX:
        return None
    work = _Transforms(call)
    work.plan.output()
    if not source.numel:
        return work.plan.steps()
    half = [size // 2 + 1 if dim == dims[-1] else size for dim, size in enumerate(source.shape)]
    result = dense(half if onesided else source.shape, _COMPLEX[source.dtype])
    if _at_once(dims):
        work.take(source, [source.shape[dim] for dim in dims], dims, real=True)
        if not onesided and tuple(half) != source.shape:
            return None
        return work.steps()
    work.take(source, [source.shape[dims[-1]]], dims[-1:], real=True)
    if len(dims) > 1:
        work.plan.temporary(result.nbytes, "result so far")
        left = sorted(dims[:-1], key=lambda dim: -result.stride[dim])
        while left:
            some, left = left[-_MOST:], left[:-_MOST]
            work.take(dense(half, result.dtype), [half[dim] for dim in some], some)
    return work.steps()


def _c2r(call: Call, gpu: GpuSpec, version: Version) -> Steps:
    """`_fft_c2r(self, dim, normalization, last_dim_size)`: cuFFT overwrites what it reads, so that is a clone."""
    source, dims, last = call.args[0], _dims(call), call.args[3]
    work = _Transforms(call)
    work.plan.output()
    if not source.numel:
        return work.plan.steps()
    sizes = [last if dim == dims[-1] else size for dim, size in enumerate(source.shape)]
    copy = dense(source.shape, source.dtype)
    if _at_once(dims) or len(dims) == 1:
        work.plan.temporary(source.nbytes, "clone of the input")
        work.take(copy, [sizes[dim] for dim in dims], dims, real=True)
        return work.steps()
    work.plan.temporary(source.nbytes, "complex result")
    left = sorted(dims[:-1], key=lambda dim: -source.stride[dim])
    while left:
        some, left = left[-_MOST:], left[:-_MOST]
        work.take(source, [source.shape[dim] for dim in some], some)
    work.take(copy, [last], dims[-1:], real=True)
    return work.steps()


def _dims(call: Call) -> tuple[int, ...]:
    return tuple(wrap(dim, len(call.args[0].shape)) for dim in call.args[1])


def _at_once(dims: Sequence[int]) -> bool:
    """`use_optimized_cufft_path`."""
    return len(dims) <= _MOST and not (len(dims) >= 2 and tuple(dims[:2]) == (0, 1))


RULES = {"_fft_c2c": _c2c, "_fft_r2c": _r2c, "_fft_c2r": _c2r}
