"""Indexing with tensors and masks: indices brought to one layout, masks turned into indices, sorted accumulation.

Sources: aten/src/ATen/native/TensorAdvancedIndexing.cpp (`make_info`, `AdvancedIndex`, `_index_put_impl_`),
IndexingUtils.h (`expandTensors`), aten/src/ATen/native/cuda/Indexing.cu (`index_put_with_sort_kernel`,
`computeLinearIndex`), Nonzero.cu, IndexKernel.cpp and IndexKernel.cu (`masked_select`, `masked_scatter`).
Deterministic algorithms are taken to be off.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

from memgraph.gpu.call import Call, Steps, TensorMeta
from memgraph.gpu.rules import cub
from memgraph.gpu.rules.iterator import reduction
from memgraph.gpu.rules.layout import (
    INT32_MAX,
    Plan,
    broadcast,
    ceil_div,
    contiguous_stride,
    dense,
    expanded,
    like,
    permuted,
)
from memgraph.gpu.rules.reduce import Kernel, reduce_scratch
from memgraph.gpu.rules.reductions import Version
from memgraph.gpu.spec import GpuSpec

Indices = Sequence["TensorMeta | None"]

_MASKS = ("bool", "uint8")


def nonzero_scratch(plan: Plan, mask: TensorMeta, gpu: GpuSpec) -> tuple[int, ...]:
    """What `mask.nonzero()` takes before its result: a copy, the count, and a reduction that comes and goes."""
    copy = plan.contiguous(mask, "contiguous mask")
    pieces = 1 if mask.numel < INT32_MAX else ceil_div(mask.numel, 2**30)
    count = plan.temporary(4 * pieces, "count of nonzero elements")
    for _ in range(pieces):
        plan.scratch(
            cub.reduce(min(mask.numel, 2**30 if pieces > 1 else mask.numel), 4, gpu.sms, gpu.max_threads_per_sm),
            name="count",
        )
    return copy, count


def select_scratch(plan: Plan, mask: TensorMeta, held: tuple[int, ...], gpu: GpuSpec) -> None:
    """What it takes after the result exists: the selection, piece by piece; then everything is given back."""
    if mask.shape:
        left = mask.numel
        while left > 0:
            piece = left if mask.numel < INT32_MAX else min(left, 2**30)
            plan.scratch(cub.flagged(piece, gpu.capability), name="selection")
            left -= piece
    plan.release(*reversed(held))


def _nonzero(call: Call, gpu: GpuSpec, version: Version) -> Steps:
    """`nonzero(self)`: the count goes to the host, so the result has its size."""
    plan, mask = Plan(call), call.args[0]
    held = nonzero_scratch(plan, mask, gpu)
    plan.output()
    select_scratch(plan, mask, held, gpu)
    return plan.steps()


def _nonzero_static(call: Call, gpu: GpuSpec, version: Version) -> Steps:
    """`nonzero_static(self, *, size, fill_value)`: partial counts of up to one (bytes: two) blocks an SM, then their
    sums."""
    plan, mask = Plan(call), call.args[0]
    plan.contiguous(mask, "contiguous mask")
    plan.output()
    tiles = ceil_div(mask.numel, 512 * 16)
    rounds = ceil_div(tiles, gpu.sms * (2 if mask.itemsize == 1 else 1))
    blocks = ceil_div(mask.numel, max(rounds, 1) * 512 * 16)
    plan.temporary(4 * blocks, "counts")
    plan.temporary(8 * blocks, "sums of counts")
    return plan.steps()


def _found(indices: Indices, shape: Sequence[int]) -> int | None:
    """How many elements a mask among the indices selects, read off the shape of what was indexed."""
    places = [place for place, index in enumerate(indices) if index is not None]
    index = indices[places[0]]
    adjacent = places == list(range(places[0], places[-1] + 1))
    others = [other.shape for other in indices if other is not None and other.dtype not in _MASKS]
    before = places[0] if adjacent else 0
    if index is None or any(shape != () for shape in others) or before >= len(shape):
        return None
    return shape[before]


def _as_longs(plan: Plan, indices: Indices, found: int | None, gpu: GpuSpec) -> list[TensorMeta | None] | None:
    """Masks replaced by the positions they select, one index for each of their dimensions; None if those are not
    known."""
    longs: list[TensorMeta | None] = []
    for index in indices:
        if index is None or index.dtype not in _MASKS:
            longs.append(index)
            continue
        if found is None:
            return None
        positions = dense((found,), "int64")._replace(device=index.device)
        if index.device == "cuda":
            held = nonzero_scratch(plan, index, gpu)
            plan.temporary(found * len(index.shape) * 8, "positions of the mask")
            select_scratch(plan, index, held, gpu)
        longs += [positions] * len(index.shape)
    return longs


def _widen(plan: Plan, indices: Indices) -> list[TensorMeta | None]:
    """Indices broadcast together; those from the host copied to the device, int32 ones as int64."""
    shape = broadcast([index.shape for index in indices if index is not None])
    wide: list[TensorMeta | None] = []
    for index in indices:
        index = expanded(index, shape) if index is not None else None
        if index is not None and index.device != "cuda":
            index = like(index, index.dtype)
            plan.temporary(index.nbytes, "index from the host")
        if index is not None and index.dtype == "int32":
            index = like(index, "int64")
            plan.temporary(index.nbytes, "index as int64")
        wide.append(index)
    return wide


def _align(plan: Plan, indices: Indices) -> None:
    """CUDA's kernel wants the same strides of every index, so if they differ each becomes contiguous."""
    known = [index for index in indices if index is not None]
    if len({index.stride for index in known}) > 1:
        for index in known:
            plan.contiguous(index, "contiguous index")


def _index(call: Call, gpu: GpuSpec, version: Version) -> Steps | None:
    """`index(self, indices)`."""
    plan, indices = Plan(call), call.args[1]
    found = _found(indices, call.outputs[0].shape) if call.outputs else 0  # nothing is selected: there is no storage
    longs = _as_longs(plan, indices, found, gpu)
    if longs is None:
        return None
    _align(plan, _widen(plan, longs))
    plan.output()
    return plan.steps()


def _index_put(call: Call, gpu: GpuSpec, version: Version) -> Steps | None:
    """`index_put(self, indices, values, accumulate)`, in place or not, and `_index_put_impl_(…, unsafe)`."""
    plan, (target, indices, values) = Plan(call), call.args[:3]
    plan.output()
    if plan.has_output:
        target = like(target, target.dtype)
    if call.arg(3, "accumulate", False):
        checked = not call.arg(4, "unsafe", False)
        return plan.steps() if _accumulate(plan, target, indices, values, checked, gpu, _put(call, target)) else None
    if values.numel == 1 and values.device == "cpu" and _is_one_mask(indices):
        return plan.steps()  # A number from the host put through one mask is a masked_fill.
    longs = _as_longs(plan, indices, _put(call, target), gpu)
    if longs is None:
        return None
    _align(plan, _widen(plan, longs))
    return plan.steps()


def _is_one_mask(indices: Indices) -> bool:
    return [index.dtype in _MASKS for index in indices if index is not None] == [True]


def asks_for_a_count(indices: Indices, values: TensorMeta, rank: int, accumulate: bool) -> bool:
    """Whether an `index_put` with one mask takes memory by how many elements that selects, and its shapes do not say
    it; then the call has the number as `selected`."""
    masks = [index for index in indices if index is not None and index.dtype in _MASKS]
    if len(masks) != 1 or _found_in_values(indices, values, rank) is not None:
        return False
    return accumulate or not (values.numel == 1 and values.device == "cpu" and _is_one_mask(indices))


def _put(call: Call, target: TensorMeta) -> int | None:
    """How many elements a mask among the indices selects: as many as are put one by one, or as is supposed."""
    found = _found_in_values(call.args[1], call.args[2], len(target.shape))
    selected: int | None = call.kwargs.get("selected")
    return found if found is not None else selected


def _found_in_values(indices: Indices, values: TensorMeta, rank: int) -> int | None:
    """As many elements as are put, if they are put one by one through a single mask: the dimension of the values that
    stands for the mask, counted from the last."""
    places = [place for place, index in enumerate(indices) if index is not None]
    index = indices[places[0]]
    if len(places) != 1 or index is None:
        return None
    after = rank - places[0] - len(index.shape)
    if len(values.shape) <= after or values.shape[-1 - after] == 1:
        return None
    return values.shape[-1 - after]


def _accumulate(
    plan: Plan, target: TensorMeta, indices: Indices, values: TensorMeta, checked: bool, gpu: GpuSpec, found: int | None
) -> bool:
    """Sort the linear indices and add up what falls on the same one. False if the sizes are not known."""
    plan.contiguous(target, "contiguous target")
    longs = _as_longs(plan, indices, found, gpu)
    if longs is None:
        return False
    wide = _widen(plan, longs)
    wide += [None] * (len(target.shape) - len(wide))
    places = [place for place, index in enumerate(wide) if index is not None]
    if places != list(range(places[0], places[-1] + 1)):
        target = permuted(target, places + [place for place, index in enumerate(wide) if index is None])
        wide = [wide[place] for place in places] + [None] * (len(wide) - len(places))
        places = list(range(len(places)))
    count = _linear_index(plan, [wide[place] for place in places], checked, gpu)
    before, after = target.shape[: places[0]], target.shape[places[-1] + 1 :]
    shape = (*before, *broadcast([index.shape for index in wide if index is not None]), *after)
    plan.contiguous(expanded(values, shape), "contiguous values")
    return _sort_indices(plan, target, count, math.prod(after), gpu)


def _linear_index(plan: Plan, indices: Indices, checked: bool, gpu: GpuSpec) -> int:
    """Each index wrapped and multiplied by its stride, all added into the first. Their number."""
    count = 0
    for place, index in enumerate(index for index in indices if index is not None):
        count = index.numel
        if checked and count:
            for _ in ("max", "min"):
                _bound(plan, index, gpu)
        wrapped = plan.temporary(8 * count, "wrapped index")
        scaled = plan.temporary(8 * count, "linear index")
        plan.release(wrapped)
        if place:
            plan.release(scaled)
    return count


def _bound(plan: Plan, index: TensorMeta, gpu: GpuSpec) -> None:
    """The largest or smallest index, compared with the dimension, for an assertion on the device."""
    extreme = plan.temporary(8, "extreme index")
    copy = plan.contiguous(index, "contiguous index")
    reduce_scratch(plan, reduction(dense(index.shape, "int64"), (), False, (8,)), Kernel(8), gpu)
    plan.release(copy)
    verdict = plan.temporary(1, "index in range")
    plan.release(verdict, extreme)


def _sort_indices(plan: Plan, target: TensorMeta, count: int, slice_size: int, gpu: GpuSpec) -> bool:
    """Sort on as many bits as the largest linear index has, counted in slices."""
    if not count or not slice_size:
        return True
    plan.contiguous(target, "contiguous permuted target")
    largest = sum((size - 1) * step for size, step in zip(target.shape, contiguous_stride(target.shape), strict=True))
    sort = cub.radix_sort(count, 8, 8, gpu.capability, max(1, (largest // slice_size).bit_length()))
    if sort is None:
        return False
    plan.temporary(8 * count, "sorted indices")
    plan.temporary(8 * count, "original places")
    plan.scratch(8 * count, sort, name="sort")
    return True


def _masked_select(call: Call, gpu: GpuSpec, version: Version) -> Steps:
    """`masked_select(self, mask)`: an index by the broadcast mask."""
    plan, (source, mask) = Plan(call), call.args[:2]
    shape = broadcast([source.shape, mask.shape]) or (1,)
    wide = expanded(mask, shape)
    held = nonzero_scratch(plan, wide, gpu)
    selected = call.outputs[0].numel if call.outputs else 0
    plan.temporary(selected * len(shape) * 8, "positions of the mask")
    select_scratch(plan, wide, held, gpu)
    plan.output()
    return plan.steps()


def _masked_scatter(call: Call, gpu: GpuSpec, version: Version) -> Steps | None:
    """`masked_scatter(self, mask, source)`, in place or not: where in the source each selected element is."""
    plan, (target, mask, source) = Plan(call), call.args[:3]
    plan.output()
    wide = expanded(mask, broadcast([target.shape, mask.shape]))
    if wide.numel > cub.MAX_SCAN:
        return None
    plan.temporary(8 * wide.numel, "prefix sum of the mask")
    if wide.numel:
        plan.contiguous(wide, "contiguous mask")
        plan.scratch(cub.scan(wide.numel, 8), name="scan")
        plan.contiguous(source, "contiguous source")
    return plan.steps()


def _scatter_reduce(call: Call, gpu: GpuSpec, version: Version) -> Steps:
    """`scatter_reduce(self, dim, index, src, reduce, *, include_self)`: a mean counts, with ones. Source:
    `scatter_reduce_two` in TensorAdvancedIndexing.cpp."""
    plan = Plan(call)
    plan.outputs()
    if call.arg(4, "reduce") == "mean":
        target, source = call.args[0], call.args[3]
        ones = plan.temporary(source.nbytes, "ones of the source")
        counts = plan.temporary(target.nbytes, "counts")
        plan.scratch(target.numel, name="places nothing was added to")
        plan.release(counts, ones)
    return plan.steps()


def _embedding(call: Call, gpu: GpuSpec, version: Version) -> Steps:
    """`embedding(weight, indices, …)`: the indices are flattened, by a copy if they are strided or broadcast."""
    plan, indices = Plan(call), call.args[1]
    if len(indices.shape) != 1 and not _flattens(indices):
        plan.temporary(indices.nbytes, "flattened indices")
    plan.output()
    return plan.steps()


def _flattens(tensor: TensorMeta) -> bool:
    """Whether `reshape(-1)` is a view."""
    dims = [(size, stride) for size, stride in zip(tensor.shape, tensor.stride, strict=True) if size != 1]
    return all(outer[1] == inner[0] * inner[1] for outer, inner in itertools.pairwise(dims))


RULES = {
    "nonzero": _nonzero,
    "nonzero_static": _nonzero_static,
    "index": _index,
    "_unsafe_index": _index,
    "index_put": _index_put,
    "index_put_": _index_put,
    "_unsafe_index_put": _index_put,
    "_index_put_impl_": _index_put,
    "masked_select": _masked_select,
    "masked_scatter": _masked_scatter,
    "masked_scatter_": _masked_scatter,
    "embedding": _embedding,
    "scatter_reduce.two": _scatter_reduce,
    "scatter_reduce_.two": _scatter_reduce,
}
