"""Sparse tensors, which a call holds as (indices, values): rows sorted and added up, rows of a dense tensor picked out.

Sources: aten/src/ATen/native/sparse/cuda/SparseCUDATensor.cu (`_coalesce_sparse_cuda`); of its parent folder
SparseTensor.cpp (`sparse_mask`) and SparseTensorMath.cpp (`intersection_binary_op_sparse_dense_out`).
"""

from __future__ import annotations

from memgraph.gpu.call import Call, Steps
from memgraph.gpu.rules import cub
from memgraph.gpu.rules.layout import Plan
from memgraph.gpu.rules.reductions import Version
from memgraph.gpu.spec import GpuSpec


def _coalesce(call: Call, gpu: GpuSpec, version: Version) -> Steps:
    """`_coalesce(self)`: a copy of the indices, which becomes the result's, two ranges, a merge sort (the comparison is
    a function, so Thrust cannot take the digits), and the first of each index."""
    plan, (indices, values) = Plan(call), call.args[0]
    count = values.shape[0]
    if count < 2:
        plan.outputs()
        return plan.steps()
    single = indices.shape[0] == 1
    if single:
        plan.output(0)  # resized in place: the storage stays as large as it was
    else:
        plan.temporary(8 * count, "flattened indices")
    for name in ("original places", "distinct places"):
        plan.temporary(8 * count, name)
    plan.scratch(cub.merge_sort(count, 8, 8), name="sort")
    plan.scratch(cub.unique_by_key(count, 8, gpu.capability), name="distinct indices")
    plan.output(1)
    plan.contiguous(values, "contiguous values")
    if not single:
        plan.output(0)
    return plan.steps()


def _sparse_mask(call: Call, gpu: GpuSpec, version: Version) -> Steps:
    """`sparse_mask(self, mask)`: a one, the rows picked out, then indices and values of the result."""
    plan, values = Plan(call), call.args[1][1]
    plan.temporary(values.itemsize, "one")
    plan.temporary(values.nbytes, "rows of the mask")
    plan.outputs()
    return plan.steps()


RULES = {"_coalesce": _coalesce, "sparse_mask": _sparse_mask}
