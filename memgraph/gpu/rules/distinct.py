"""Distinct values: a sort, unless they are consecutive, then one pass that keeps the first of each run.

Source: aten/src/ATen/native/cuda/UniqueCub.cu (`UniqueCub`, `compute_unique`); recorded on an H200 for 1,000, 100,000
and 1,000,000 numbers.
"""

from __future__ import annotations

from collections.abc import Callable

from memgraph.gpu.call import Call, Steps, TensorMeta
from memgraph.gpu.rules import cub
from memgraph.gpu.rules.layout import INT32_MAX, LOW_PRECISION, Plan, permuted, wrap
from memgraph.gpu.rules.reductions import Version
from memgraph.gpu.spec import GpuSpec


def _unique(call: Call, gpu: GpuSpec, version: Version) -> Steps | None:
    """`_unique2(self, sorted, return_inverse, return_counts)`, `_unique(self, sorted, return_inverse)`: what is not
    consecutive is sorted first, with the place of each element if they are to be told."""
    inverse, counts = bool(call.arg(2, "return_inverse", False)), bool(call.arg(3, "return_counts", False))
    plan, source = Plan(call), call.args[0]
    known = unique_scratch(plan, source, inverse, counts, gpu, lambda index, _: plan.output(index))
    return plan.steps() if known else None


def unique_scratch(
    plan: Plan, source: TensorMeta, inverse: bool, counts: bool, gpu: GpuSpec, result: Callable[[int, int], object]
) -> bool:
    """What `unique` takes, for other rules too; False where that is not known.

    Args:
        result: makes the result of that number, of so many bytes.
    """
    if not _known(source):
        return False
    plan.contiguous(source, "contiguous input")
    keys = plan.temporary(source.nbytes, "sorted values")
    wide = source.numel * 8 * inverse
    place = plan.temporary(wide, "places")
    places = plan.temporary(wide, "sorted places")
    floats = source.dtype == "float32"
    sort = cub.radix_sort(source.numel, source.itemsize, 8 * inverse, gpu.capability, floats=floats)
    if sort is None:
        return False
    plan.scratch(sort, name="sort")
    plan.release(place)
    if inverse:
        result(1, wide)
        running = plan.temporary(wide, "number of each run")
        plan.scratch(cub.running_sum(source.numel, gpu.capability), name="running sum")
        plan.release(running)
    _runs(plan, source, counts, gpu, result)
    plan.release(places, keys)
    return True


def _unique_consecutive(call: Call, gpu: GpuSpec, version: Version) -> Steps | None:
    """`unique_consecutive(self, return_inverse, return_counts, dim)`: the inverse adds up where a run begins. Along a
    dimension rows are compared, of which the sizes are not known."""
    source = call.args[0]
    if call.arg(3, "dim") is not None or not _known(source):
        return None
    plan = Plan(call)
    plan.contiguous(source, "contiguous input")
    if call.arg(1, "return_inverse", False):
        plan.output(1)
        begins = plan.temporary(source.numel * 4, "where each run begins")
        plan.scratch(cub.running_sum(source.numel, gpu.capability), name="running sum")
        plan.release(begins)
    _runs(plan, source, bool(call.arg(2, "return_counts", False)), gpu, lambda index, _: plan.output(index))
    return plan.steps()


def _unique_dim(call: Call, gpu: GpuSpec, version: Version) -> Steps | None:
    """`unique_dim(self, dim, sorted, return_inverse, return_counts)`: places of slices are merged by what stands there;
    the sizes of the inverse and the counts are not known. Source: `unique_dim_cuda_template` of Unique.cu."""
    source, dim = call.args[0], call.args[1]
    if call.arg(3, "return_inverse", False) or call.arg(4, "return_counts", False) or not source.numel:
        return None
    plan, slices = Plan(call), source.shape[dim]
    dims = [place for place in range(len(source.shape)) if place != wrap(dim, len(source.shape))]
    plan.contiguous(permuted(source, (wrap(dim, len(source.shape)), *dims)), "slices one after the other")
    plan.temporary(slices * 8, "places")
    plan.scratch(cub.merge_sort(slices, 8, 0), name="sort")
    plan.scratch(cub.unique_by_function(slices, 8), name="first of each run")
    plan.output()
    return plan.steps()


def _known(source: TensorMeta) -> bool:
    """Bools are counted otherwise, no elements take nothing and many are refused."""
    return source.dtype != "bool" and 0 < source.numel <= INT32_MAX


def _runs(
    plan: Plan, source: TensorMeta, counts: bool, gpu: GpuSpec, result: Callable[[int, int], object]
) -> None:  # fmt: skip
    """The first of each run, in a storage for all of them, how many there are, and how long they are."""
    result(0, source.nbytes)
    length = plan.temporary(8, "number of runs")
    if counts:
        result(2, source.numel * 8)
        scratch = cub.run_lengths(source.numel)
    else:
        scratch = cub.unique(source.numel, source.itemsize, source.dtype not in LOW_PRECISION, gpu.capability)
    plan.scratch(scratch, name="runs")
    plan.release(length)


RULES = {
    "_unique": _unique,
    "_unique2": _unique,
    "unique_consecutive": _unique_consecutive,
    "unique_dim": _unique_dim,
}
