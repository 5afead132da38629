"""Sums, means, extrema, norms and variances: one kernel, `gpu_reduce_kernel`, with its scratch (see `reduce.py`).

The input is first copied to another dtype where the kernel cannot convert it while it reads: integers into int64
for sums, anything into an explicit `dtype`, but not float16 or bfloat16 into float32.
Sources: aten/src/ATen/native/ReduceOps.cpp, ReduceAllOps.cpp, ReduceOpsUtils.h, LinearAlgebra.cpp;
aten/src/ATen/native/cuda/ReduceSumProdKernel.cu, ReduceMomentKernel.cu, ReduceNormKernel.cu, ReduceLogicKernel.cu,
ReduceMaxValuesKernel.cu, ReduceArgMaxKernel.cu, ReduceAMinMaxKernel.cu.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from memgraph.gpu.call import Call, Steps, TensorMeta
from memgraph.gpu.rules.iterator import reduction
from memgraph.gpu.rules.layout import INTEGRAL, ITEMSIZE, LOW_PRECISION, Plan, broadcast, dense, like, wrap
from memgraph.gpu.rules.reduce import Kernel, reduce_scratch
from memgraph.gpu.spec import GpuSpec

Version = tuple[int, int]

_INDEXED = Kernel(accumulator=16, in_output=False)
"""A value and its int64 index, padded to 16 bytes whatever the value."""


def dims_of(value: Any, rank: int) -> tuple[int, ...]:
    """A `dim` argument as dimensions counted from the front; empty means all of them."""
    if value is None:
        return ()
    return tuple(wrap(dim, rank) for dim in ((value,) if isinstance(value, int) else value))


def sum_scratch(
    plan: Plan, source: TensorMeta, dims: Sequence[int], keepdim: bool, gpu: GpuSpec, dtype: str = ""
) -> None:
    """Write down what `source.sum(dims)` takes besides its output: for other rules too, such as a bias gradient."""
    reduce_as(plan, source, dims, keepdim, dtype or _sum_dtype(source), gpu, wide=True)


def reduce_as(
    plan: Plan, source: TensorMeta, dims: Sequence[int], keepdim: bool, dtype: str, gpu: GpuSpec, wide: bool = False
) -> None:
    """The cast to the output's dtype, if the kernel needs one, then the kernel; `wide` kernels load 16 bytes at
    once."""
    read = _read_dtype(source.dtype, dtype)
    copy = -1
    if read != source.dtype:
        source = like(source, read)
        copy = plan.temporary(source.nbytes, "input in the output's dtype")
    kernel = _adding_kernel(read, dtype, wide)
    reduce_scratch(plan, reduction(source, dims, keepdim, (ITEMSIZE[dtype],)), kernel, gpu)
    plan.release(copy)


def _sum_dtype(source: TensorMeta) -> str:
    return "int64" if source.dtype in INTEGRAL else source.dtype


def _read_dtype(source: str, target: str) -> str:
    """The dtype that the kernel reads. Source: `make_reduction_from_out_ty`."""
    if source.startswith("complex") and not target.startswith("complex"):
        return {"float64": "complex128", "float32": "complex64"}.get(target, source)
    return source if source in LOW_PRECISION and target == "float32" else target


def _adding_kernel(read: str, target: str, wide: bool) -> Kernel:
    """Sums and means of 2-byte types load 8 elements at once (`input_vec_size`), everything else 4."""
    accumulator = 4 if read in LOW_PRECISION else ITEMSIZE[target]
    vector = 8 if wide and ITEMSIZE[read] == 2 else 4
    return Kernel(
        accumulator, vector, 256 if read == "complex128" else 512, not (read == target and read in LOW_PRECISION)
    )


def _source(call: Call) -> TensorMeta:
    source: TensorMeta = call.args[0]
    return source


def _target_dtype(call: Call, default: str) -> str:
    """The output's dtype: of the output, of `out=`, or as asked."""
    if call.outputs:
        return call.outputs[0].dtype
    out = call.kwargs.get("out")
    return out.dtype if isinstance(out, TensorMeta) else call.kwargs.get("dtype") or default


def _add(call: Call, gpu: GpuSpec, dims: Any, keepdim: bool, wide: bool) -> Steps:
    plan, source = Plan(call), _source(call)
    plan.output()
    dtype = _target_dtype(call, _sum_dtype(source))
    reduce_as(plan, source, dims_of(dims, len(source.shape)), keepdim, dtype, gpu, wide)
    return plan.steps()


def _sum(call: Call, gpu: GpuSpec, version: Version) -> Steps:
    """`sum(self, dim, keepdim, *, dtype)`, `mean(…)`, `nansum(…)`; the default overload has no `dim`."""
    everything = call.overload in ("default", "out")
    dims = None if everything else call.arg(1, "dim")
    return _add(call, gpu, dims, not everything and bool(call.arg(2, "keepdim", False)), wide=call.op != "nansum")


def _prod(call: Call, gpu: GpuSpec, version: Version) -> Steps:
    """`prod(self, dim, keepdim, *, dtype)`. It never loads more than 4 elements at once."""
    return _add(call, gpu, *_dim_and_keepdim(call), wide=False)


def _dim_and_keepdim(call: Call, first: int = 1) -> tuple[Any, bool]:
    if call.overload in ("default", "out", "all_out"):
        return None, False
    return call.arg(first, "dim"), bool(call.arg(first + 1, "keepdim", False))


def _norm(call: Call, gpu: GpuSpec, version: Version) -> Steps:
    """`linalg_vector_norm(self, ord, dim, keepdim, *, dtype)` and `norm(self, p, dim, keepdim, *, dtype)`.
    Over dimensions of size 1 it is an `abs`. A complex input is read as it is and added up as real numbers."""
    plan, source = Plan(call), _source(call)
    plan.output()
    dims = dims_of(call.arg(2, "dim"), len(source.shape))
    dtype = _target_dtype(call, source.dtype)
    if source.shape and any(source.shape[dim] != 1 for dim in dims or range(len(source.shape))):
        reduce_as(plan, source, dims, bool(call.arg(3, "keepdim", False)), dtype, gpu)
    return plan.steps()


def _absolute(call: Call, gpu: GpuSpec, version: Version) -> Steps:
    """`abs(self)`, `angle(self)` of complex numbers are complex, and then copied into real ones
    (`unary_op_impl_with_complex_to_float_out` of UnaryOps.cpp)."""
    plan, source = Plan(call), call.args[0]
    plan.output()
    if source.dtype.startswith("complex"):
        plan.temporary(source.nbytes, "complex result")
    return plan.steps()


def _histogram(call: Call, gpu: GpuSpec, version: Version) -> Steps:
    """`histc(self, bins, min, max)`: without bounds the smallest and the largest are looked for (SummaryOps.cu)."""
    plan, source = Plan(call), call.args[0]
    plan.output()
    if call.arg(2, "min", 0) == call.arg(3, "max", 0):
        for _ in range(2):
            bound = plan.temporary(source.itemsize, "bound")
            _extremum_scratch(plan, source, dims_of((), len(source.shape)), False, gpu)
            plan.release(bound)
    return plan.steps()


def _bincount(call: Call, gpu: GpuSpec, version: Version) -> Steps | None:
    """`bincount(self, weights, minlength)`: the smallest, unless there is none below 0, and the largest are read, then
    the counts; weights other than floats are copied (`_bincount_cuda_template` of SummaryOps.cu)."""
    plan, source, weights = Plan(call), call.args[0], call.arg(1, "weights")
    if source.numel:
        for _ in range(1 if source.dtype == "uint8" else 2):
            bound = plan.temporary(source.itemsize, "bound")
            maximum_scratch(plan, source, gpu)
            plan.release(bound)
    plan.output()
    if isinstance(weights, TensorMeta) and weights.dtype not in ("float32", "float64"):
        plan.temporary(weights.numel * 8, "weights in float64")
    return plan.steps()


def _extremum(call: Call, gpu: GpuSpec, version: Version) -> Steps:
    """`amax(self, dim, keepdim)`, `amin`: the accumulator is the value itself."""
    plan, source = Plan(call), _source(call)
    plan.output()
    _extremum_scratch(
        plan, source, dims_of(call.arg(1, "dim", ()), len(source.shape)), bool(call.arg(2, "keepdim", False)), gpu
    )
    return plan.steps()


def _extremum_scratch(plan: Plan, source: TensorMeta, dims: Sequence[int], keepdim: bool, gpu: GpuSpec) -> None:
    kernel = Kernel(source.itemsize, in_output=source.dtype not in LOW_PRECISION)
    reduce_scratch(plan, reduction(source, dims, keepdim, (source.itemsize,)), kernel, gpu)


def _max(call: Call, gpu: GpuSpec, version: Version) -> Steps:
    """`max(self)` over everything copies a strided or broadcast input; `max(self, dim, keepdim)` gives values and
    indices."""
    plan, source = Plan(call), _source(call)
    plan.outputs()
    if call.overload.startswith("dim") or len(call.outputs) == 2:
        what = reduction(
            source,
            dims_of(call.arg(1, "dim"), len(source.shape)),
            bool(call.arg(2, "keepdim", False)),
            (source.itemsize, 8),
        )
        if source.shape:
            reduce_scratch(plan, what, _INDEXED, gpu)
    else:
        maximum_scratch(plan, source, gpu)
    return plan.steps()


def _argmax(call: Call, gpu: GpuSpec, version: Version) -> Steps:
    """`argmax(self, dim, keepdim)`, `argmin`; without `dim` the input is flattened, by a copy if it is strided."""
    plan, source = Plan(call), _source(call)
    plan.output()
    dim = call.arg(1, "dim")
    if dim is None:
        plan.contiguous(source, "flattened input")
        source = dense((source.numel,), source.dtype)
    dims = dims_of(dim, len(source.shape))
    if dims and source.shape and source.shape[dims[0]] == 1:
        return plan.steps()
    reduce_scratch(
        plan, reduction(source, dims, dim is not None and bool(call.arg(2, "keepdim", False)), (8,)), _INDEXED, gpu
    )
    return plan.steps()


def argmax_scratch(plan: Plan, source: TensorMeta, gpu: GpuSpec) -> None:
    """What `source.argmax(-1, keepdim=True)` takes besides its output, for other rules."""
    if source.shape[-1] != 1:
        reduce_scratch(plan, reduction(source, (len(source.shape) - 1,), True, (8,)), _INDEXED, gpu)


def maximum_scratch(plan: Plan, source: TensorMeta, gpu: GpuSpec) -> None:
    """What `source.max()` and `source.min()` take besides their output, for other rules."""
    plan.contiguous(source, "contiguous input")
    _extremum_scratch(plan, dense(source.shape, source.dtype), (), False, gpu)


def _aminmax(call: Call, gpu: GpuSpec, version: Version) -> Steps:
    """`aminmax(self, *, dim, keepdim)`: the accumulator is a pair of values."""
    plan, source = Plan(call), _source(call)
    plan.outputs()
    dim = call.kwargs.get("dim")
    if dim is None:
        plan.contiguous(source, "contiguous input")
        source = dense(source.shape, source.dtype)
    what = reduction(
        source, dims_of(dim, len(source.shape)), bool(call.kwargs.get("keepdim", False)), (source.itemsize,) * 2
    )
    reduce_scratch(plan, what, Kernel(2 * source.itemsize, in_output=False), gpu)
    return plan.steps()


def _any(call: Call, gpu: GpuSpec, version: Version) -> Steps:
    """`any(self, dim, keepdim)`, `all`. The accumulator was the input's type (2.10's source) and is a bool (2.15's
    library)."""
    plan, source = Plan(call), _source(call)
    plan.output()
    if source.numel == 1:
        plan.temporary(1 if source.dtype != "bool" else 0, "input as bool")
        return plan.steps()
    dim, keepdim = _dim_and_keepdim(call)
    accumulator = 1 if version >= (2, 15) else source.itemsize
    reduce_scratch(plan, reduction(source, dims_of(dim, len(source.shape)), keepdim, (1,)), Kernel(accumulator), gpu)
    return plan.steps()


def _equal(call: Call, gpu: GpuSpec, version: Version) -> Steps:
    """`equal(self, other)` of tensors of one shape: which elements are, then whether all are (`cuda_equal` of
    cuda/Equal.cpp)."""
    plan, (source, other) = Plan(call), call.args[:2]
    if source.shape == other.shape and source.numel:
        alike = plan.temporary(source.numel, "elements that are equal")
        every = plan.temporary(1, "whether all are")
        if source.numel > 1:
            reduce_scratch(plan, reduction(dense(source.shape, "bool"), (), False, (1,)), Kernel(1), gpu)
        plan.release(every, alike)
    return plan.steps()


def _infinite(call: Call, gpu: GpuSpec, version: Version) -> Steps | None:
    """`isinf(self)`: the absolute values, compared with infinity (TensorCompare.cpp). Complex inputs are not known."""
    plan, source = Plan(call), _source(call)
    if source.dtype.startswith("complex"):
        return None
    absolute = plan.temporary(0 if source.dtype in INTEGRAL else source.nbytes, "absolute values")
    plan.output()
    plan.release(absolute)
    return plan.steps()


def _var(call: Call, gpu: GpuSpec, version: Version) -> Steps | None:
    """`var(self, dim, *, correction, keepdim)`, `std`, `var_mean`, `std_mean`: Welford's mean, square sum and two
    counts, 16 bytes in float32 and 32 in float64, two elements at once. Complex inputs are not known."""
    plan, source = Plan(call), _source(call)
    if source.dtype.startswith("complex"):
        return None
    plan.outputs()
    dims = dims_of(call.arg(1, "dim"), len(source.shape))
    targets = tuple(output.itemsize for output in call.outputs) or (source.itemsize,)
    kernel = Kernel(32 if source.dtype == "float64" else 16, vector=2, in_output=False)
    reduce_scratch(plan, reduction(source, dims, bool(call.kwargs.get("keepdim", False)), targets), kernel, gpu)
    return plan.steps()


def _logsumexp(call: Call, gpu: GpuSpec, version: Version) -> Steps:
    """`logsumexp(self, dim, keepdim)`: maxima, their absolute values and a mask, shifted exponentials, then a sum.
    Source: `logsumexp_out_impl`."""
    plan, source = Plan(call), _source(call)
    dims = dims_of(call.arg(1, "dim"), len(source.shape))
    peaks = [1 if dim in dims or not dims else size for dim, size in enumerate(source.shape)]
    maxima = dense(peaks, source.dtype)
    plan.temporary(maxima.nbytes, "maxima")
    _extremum_scratch(plan, source, dims, True, gpu)
    plan.scratch(maxima.nbytes, maxima.numel, name="infinite maxima")
    plan.temporary(source.nbytes, "shifted exponentials")
    plan.output()
    sum_scratch(plan, like(source, source.dtype), dims, bool(call.arg(2, "keepdim", False)), gpu)
    return plan.steps()


def _trace(call: Call, gpu: GpuSpec, version: Version) -> Steps:
    """`trace(self)`: the sum of the diagonal, a view. Source: `trace_cuda` of TensorFactories.cu."""
    plan, source = Plan(call), _source(call)
    plan.output()
    diagonal = source._replace(shape=(min(source.shape),), stride=(sum(source.stride),))
    sum_scratch(plan, diagonal, (), False, gpu)
    return plan.steps()


def _dist(call: Call, gpu: GpuSpec, version: Version) -> Steps:
    """`dist(self, other, p)`: the norm of a difference. Source: Distance.cpp."""
    plan, source = Plan(call), _source(call)
    difference = like(dense(broadcast([source.shape, call.args[1].shape]), source.dtype), source.dtype)
    plan.temporary(difference.nbytes, "difference")
    plan.output()
    if difference.shape:
        reduce_as(plan, difference, (), False, difference.dtype, gpu)
    return plan.steps()


def _renorm(call: Call, gpu: GpuSpec, version: Version) -> Steps:
    """`renorm(self, p, dim, maxnorm)`: a norm for each slice, kept in float32 for half types, and the factor where that
    is of another type. Source: `renorm_out` of Normalization.cpp."""
    plan, source, dim = Plan(call), _source(call), wrap(call.args[2], len(call.args[0].shape))
    plan.output()
    dtype = "float32" if source.dtype in LOW_PRECISION else source.dtype
    others = [place for place in range(len(source.shape)) if place != dim]
    plan.temporary(source.shape[dim] * ITEMSIZE[dtype], "norms")
    reduce_as(plan, source, others, True, dtype, gpu)
    if dtype != source.dtype:
        plan.temporary(source.shape[dim] * source.itemsize, "factors")
    return plan.steps()


RULES = {
    "renorm": _renorm,
    "trace": _trace,
    "dist": _dist,
    "sum": _sum,
    "nansum": _sum,
    "mean": _sum,
    "prod": _prod,
    "abs": _absolute,
    "angle": _absolute,
    "histc": _histogram,
    "bincount": _bincount,
    "linalg_vector_norm": _norm,
    "norm": _norm,
    "amax": _extremum,
    "amin": _extremum,
    "max": _max,
    "min": _max,
    "argmax": _argmax,
    "argmin": _argmax,
    "aminmax": _aminmax,
    "any": _any,
    "equal": _equal,
    "isinf": _infinite,
    "all": _any,
    "var": _var,
    "std": _var,
    "var_mean": _var,
    "std_mean": _var,
    "logsumexp": _logsumexp,
}
