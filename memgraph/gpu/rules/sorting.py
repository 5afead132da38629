"""Sorting, selecting and scanning along a dimension.

Sources: aten/src/ATen/native/Sorting.cpp, cuda/Sort.cpp, SortStable.cu, TensorTopK.cpp and TensorTopK.cu, Sorting.cpp,
TensorModeKernel.cpp, ReduceOps.cpp (`impl_func_cum_ops`), ScanKernels.cpp, ScanUtils.cuh, Randperm.cu, Repeat.cpp.
"""

from __future__ import annotations

import math

from memgraph.gpu.call import Call, Steps, TensorMeta
from memgraph.gpu.rules import cub
from memgraph.gpu.rules.layout import (
    INT32_MAX,
    ITEMSIZE,
    LOW_PRECISION,
    Plan,
    ceil_div,
    dense,
    is_dense,
    like,
    permuted,
    wrap,
)
from memgraph.gpu.rules.reductions import Version, sum_scratch
from memgraph.gpu.spec import GpuSpec

_SMALL = 4096
"""Elements that are sorted in place, inside one block (`should_use_small_sort`)."""
_FUSED_MODE = 2048
"""Elements of a slice whose `mode` one block finds: twice its threads."""
_PRIMITIVE = ("float32", "float64", "int64", "int32", "int16", "int8", "uint8", "bool")


def _sort(call: Call, gpu: GpuSpec, version: Version) -> Steps | None:
    """`sort(self, dim, descending)` and `sort(self, *, stable, dim, descending)`: values, indices, then the sort."""
    plan, source = Plan(call), call.args[0]
    plan.outputs()
    dim = call.kwargs.get("dim", call.arg(1 if call.overload == "default" else 2, "dim", -1))
    return plan.steps() if sort_scratch(plan, source, wrap(dim, len(source.shape)), gpu) else None


def sort_scratch(plan: Plan, source: TensorMeta, dim: int, gpu: GpuSpec) -> bool:
    """Copies into a layout where `dim` runs fastest, then one sort, one of everything, or one of each segment."""
    if not source.shape or not source.numel:
        return True
    if source.shape[dim] <= _SMALL:  # indices are a range of the slice's length, copied into each slice
        plan.scratch(source.shape[dim] * 8, name="range of indices")
        return True
    if not (is_dense(source) and source.stride[dim] == 1):
        plan.temporary(source.nbytes, "input with the sorted dimension last")
        if like(source, source.dtype).stride[dim] != 1:
            plan.temporary(source.nbytes, "sorted values")
            plan.temporary(source.numel * 8, "sorted indices")
    length = source.shape[dim]
    whole = min(source.numel, INT32_MAX) // length * length
    for start in range(0, source.numel, whole):
        if not _sort_segments(plan, min(whole, source.numel - start), length, source.itemsize, gpu):
            return False
    return True


def _sort_segments(plan: Plan, count: int, length: int, size: int, gpu: GpuSpec) -> bool:
    """Source: `launch_stable_sort_kernel`."""
    segments = count // length
    if segments == 1 or length >= 1_000_000:
        return _sort_one_by_one(plan, segments, length, size, gpu)
    if segments < 128:
        return _sort_all(plan, count, segments, size, gpu)
    plan.scratch(count * 8, cub.segmented_sort(count, size, 8), name="segmented sort")
    return True


def _sort_one_by_one(plan: Plan, segments: int, length: int, size: int, gpu: GpuSpec) -> bool:
    temporary = cub.radix_sort(length, size, 8, gpu.capability)
    places = plan.temporary(length * 8, "places")
    for _ in range(segments if temporary else 0):
        plan.scratch(temporary or 0, name="sort")
    plan.release(places)
    return temporary is not None


def _sort_all(plan: Plan, count: int, segments: int, size: int, gpu: GpuSpec) -> bool:
    """Sort all values at once, each with its place and segment, then by segment."""
    first = cub.radix_sort(count, size, 8, gpu.capability)
    second = cub.radix_sort(count, 8, 0, gpu.capability, max(1, math.ceil(math.log2(segments))))
    if first is None or second is None:
        return False
    places = [plan.temporary(count * 8, "places and segments") for _ in range(2)]
    plan.scratch(count * size, first, name="sort by value")
    plan.scratch(second, name="sort by segment")
    plan.release(*reversed(places))
    return True


def _topk(call: Call, gpu: GpuSpec, version: Version) -> Steps | None:
    """`topk(self, k, dim, largest, sorted)`: several blocks a slice if slices are long; a real sort only for k above
    4096."""
    plan, source, k = Plan(call), call.args[0], call.args[1]
    plan.outputs()
    if not k or not source.numel:
        return plan.steps()
    dim = wrap(call.arg(2, "dim", -1), len(source.shape))
    length = source.shape[dim] if source.shape else 1
    copy = plan.contiguous(source, "contiguous input")
    topk_scratch(plan, source, gpu, length)
    plan.release(copy)
    return plan.steps() if k <= _SMALL or not call.arg(4, "sorted", True) else None


def topk_scratch(plan: Plan, source: TensorMeta, gpu: GpuSpec, length: int = 0) -> None:
    """What the choice itself takes, along the last dimension or one of `length` elements, for other rules."""
    length = length or source.shape[-1]
    if _many_blocks(source.numel // length, length):
        _topk_blocks(plan, source, length, gpu)


def _many_blocks(slices: int, length: int) -> bool:
    """Source: `should_use_multiblock`."""
    limits = ((20, 20000), (40, 10000), (80, 8000), (199, 5000), (799, 3000), (4000, 800))
    return length >= next((least for most, least in limits if slices <= most), 400)


def _topk_blocks(plan: Plan, source: TensorMeta, length: int, gpu: GpuSpec) -> None:
    """Values, ranks and digits before and after each pass, counts of 256 digits for each block and each slice, counts
    of each block, then two scans of these. A thread takes 4 to 64 items; six blocks of 256 threads and 40 registers fit
    an SM. Source: `mbtopk::launch`, `get_items_per_thread`; measured on 8 x 50,000 and 8,192 x 1,024."""
    slices = source.numel // length
    items = min(max(ceil_div(source.numel, gpu.sms * 6 * 256), 4), 64)
    blocks = slices * ceil_div(length, items * 256)
    digits = 8 if source.itemsize == 8 else 4
    sizes = (
        slices * source.itemsize,
        slices * 8,
        slices * digits * 2,
        blocks * 512,
        slices * 1024,
        blocks * 4,
        blocks * 4,
    )
    kept = [plan.temporary(size, "topk") for size in sizes]
    for _ in range(2):
        plan.scratch(cub.scan_by_key(blocks, 4), name="scan of the blocks' counts")
    plan.release(*reversed(kept))


def _scan(call: Call, gpu: GpuSpec, version: Version) -> Steps | None:
    """`cumsum(self, dim, *, dtype)`, `cumprod`, `logcumsumexp(self, dim)`: the input in the result's dtype and
    contiguous; CUB if there is one line only."""
    plan, source, dim = Plan(call), call.args[0], call.args[1]
    plan.output()
    dtype = call.outputs[0].dtype if call.outputs else call.kwargs.get("dtype") or source.dtype
    if dtype != source.dtype:
        source = like(source, dtype)
        plan.temporary(source.nbytes, "input in the result's dtype")
    if not source.shape or not source.numel:
        return plan.steps()
    plan.contiguous(source, "contiguous input")
    if source.numel == source.shape[wrap(dim, len(source.shape))]:
        halves = dtype in LOW_PRECISION
        if (not halves and (dtype not in _PRIMITIVE or source.itemsize < 4)) or source.numel > cub.MAX_SCAN:
            return None
        size = cub.scan_of_halves(source.numel) if halves else cub.scan(source.numel, source.itemsize)
        plan.scratch(size, name="scan")
    return plan.steps()


def _copied(call: Call, gpu: GpuSpec, version: Version) -> Steps:
    """`cummax`, `cummin`, `kthvalue`, `median(dim)`: outputs, and a contiguous copy of a strided input."""
    plan = Plan(call)
    plan.outputs()
    plan.contiguous(call.args[0], "contiguous input")
    return plan.steps()


def _median(call: Call, gpu: GpuSpec, version: Version) -> Steps | None:
    """`median(self, dim, keepdim)`: the copy comes first; over everything everything is sorted (cuda/Sorting.cpp)."""
    plan = Plan(call)
    if len(call.outputs) != 2:
        return _median_of_all(plan, call, gpu)
    plan.contiguous(call.args[0], "contiguous input")
    plan.outputs()
    return plan.steps()


def _median_of_all(plan: Plan, call: Call, gpu: GpuSpec) -> Steps | None:
    """`median(self)`, `nanmedian(self)`: the sorted values stay until the one in the middle is found; where they are no
    numbers, which the latter counts."""
    source = call.args[0]
    if not source.numel:
        return None
    flat = plan.contiguous(source, "flat input")
    values = plan.temporary(source.nbytes, "sorted values")
    indices = plan.temporary(source.numel * 8, "sorted indices")
    if not sort_scratch(plan, dense((source.numel,), source.dtype), 0, gpu):
        return None
    plan.release(indices, flat)
    if call.op == "nanmedian":
        _middle_of_numbers(plan, source, gpu)
        return plan.steps()
    unknown = plan.temporary(1, "whether there is one that is no number")
    plan.output()
    plan.release(unknown, values)
    return plan.steps()


def _middle_of_numbers(plan: Plan, source: TensorMeta, gpu: GpuSpec) -> None:
    mask = plan.temporary(source.numel, "those that are no numbers")
    missing = plan.temporary(8, "their count")
    sum_scratch(plan, dense((source.numel,), "bool"), (0,), False, gpu, "int64")
    left = plan.temporary(8, "how many are left")
    half = plan.temporary(4, "half of that")
    place = plan.temporary(8, "the place in the middle")
    plan.release(half, left, missing, mask)
    plan.output()
    plan.release(place)


def _mode(call: Call, gpu: GpuSpec, version: Version) -> Steps | None:
    """`mode(self, dim, keepdim)`: slices up to 2,048 elements in one kernel, from a copy with the dimension last
    (TensorModeKernel.cpp, `mode_kernel_impl`); longer ones one after the other, of which the sizes are not known."""
    plan, source = Plan(call), call.args[0]
    plan.outputs()
    dim = wrap(call.arg(1, "dim", -1), len(source.shape))
    length = source.shape[dim] if source.shape else 1
    if length > _FUSED_MODE:
        return None
    if length > 1:
        last = [*range(len(source.shape))]
        last[dim], last[-1] = last[-1], last[dim]
        plan.contiguous(permuted(source, last), "input with the dimension last")
    return plan.steps()


def _unfold_backward(call: Call, gpu: GpuSpec, version: Version) -> Steps:
    """`unfold_backward(grad, input_sizes, dim, size, step)`: each place along the dimension by its number
    (UnfoldBackward.cpp, `_make_unfold_backward_iter_over_grad_in`)."""
    plan, sizes = Plan(call), call.args[1]
    plan.outputs()
    if sizes:
        plan.temporary(sizes[wrap(call.args[2], len(sizes))] * 8, "places")
    return plan.steps()


def _searchsorted(call: Call, gpu: GpuSpec, version: Version) -> Steps | None:
    """`searchsorted(sorted_sequence, self, …)`, `bucketize(self, boundaries, …)`: nothing if both are contiguous and
    alike."""
    first, second = call.args[:2]
    if not isinstance(first, TensorMeta) or not isinstance(second, TensorMeta):
        return None
    plan = Plan(call)
    plan.outputs()
    plain = first.is_contiguous and second.is_contiguous and first.dtype == second.dtype
    return plan.steps() if plain and call.kwargs.get("sorter") is None else None


def _randperm(call: Call, gpu: GpuSpec, version: Version) -> Steps | None:
    """`randperm(n, …)`: a range shuffled by sorting random keys of just enough bits."""
    plan, count = Plan(call), call.args[0]
    plan.output()
    size = call.outputs[0].itemsize if call.outputs else 8
    plan.scratch(size, name="count")  # `check_supported_max_int_with_precision` of TensorFactories.h
    if not count:
        return plan.steps()
    bits = min(64, math.ceil(math.log2(count - (6 * count * count + 1) / (math.log(0.9) * 12))))
    key = 4 if bits <= 32 else 8
    temporary = cub.radix_sort(count, key, size, gpu.capability, bits)
    if temporary is None:
        return None
    plan.temporary(count * size, "range")
    plan.temporary(count * key, "keys")
    plan.temporary(count * key, "sorted keys")
    plan.scratch(temporary, name="sort")
    return plan.steps()


def _repeat_interleave(call: Call, gpu: GpuSpec, version: Version) -> Steps | None:
    """`repeat_interleave(repeats, *, output_size)`: the running sum of the repeats, then the result."""
    plan, repeats = Plan(call), call.args[0]
    if not repeats.numel or repeats.numel > cub.MAX_SCAN:
        return plan.steps() if not repeats.numel else None
    plan.contiguous(repeats, "contiguous repeats")
    plan.temporary(repeats.numel * 8, "running sum of repeats")
    wide = plan.temporary(repeats.numel * 8 if repeats.dtype != "int64" else 0, "repeats as int64")
    plan.scratch(cub.scan(repeats.numel, 8), name="scan")
    plan.release(wide)
    if call.kwargs.get("output_size") is None:
        plan.scratch(repeats.numel, 1, name="check of the repeats")
    plan.output()
    return plan.steps()


def _count_nonzero(call: Call, gpu: GpuSpec, version: Version) -> Steps:
    """`count_nonzero(self, dim)`: a mask, then its sum in int64."""
    plan, source = Plan(call), call.args[0]
    mask = source if source.dtype == "bool" else dense(source.shape, "bool")
    if mask is not source:
        plan.temporary(source.numel * ITEMSIZE["bool"], "nonzero mask")
    plan.output()
    dims = call.arg(1, "dim", ()) or ()
    dims = (dims,) if isinstance(dims, int) else dims
    sum_scratch(plan, mask, [wrap(dim, len(source.shape)) for dim in dims], False, gpu, "int64")
    return plan.steps()


RULES = {
    "unfold_backward": _unfold_backward,
    "sort": _sort,
    "topk": _topk,
    "cumsum": _scan,
    "cumsum_": _scan,
    "cumprod": _scan,
    "logcumsumexp": _scan,
    "_logcumsumexp": _scan,
    "cummax": _copied,
    "cummin": _copied,
    "kthvalue": _median,
    "median": _median,
    "mode": _mode,
    "nanmedian": _median,
    "searchsorted": _searchsorted,
    "bucketize": _searchsorted,
    "randperm": _randperm,
    "repeat_interleave": _repeat_interleave,
    "count_nonzero": _count_nonzero,
}
