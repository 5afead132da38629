"""Matrix products: operands whose layout cuBLAS cannot read are copied, the second before the first.

The library's own workspace is kept from call to call and is not here. Sources: aten/src/ATen/native/cuda/Blas.cpp
(`prepare_batch_matrix_for_cublas`, `addmv_out_cuda`), cuBlasCommonArgs.h (`prepare_matrix_for_cublas`).
"""

from __future__ import annotations

from collections.abc import Sequence

from memgraph.gpu.call import Call, Steps, TensorMeta
from memgraph.gpu.rules.layout import Plan, is_dense
from memgraph.gpu.rules.reductions import Version, sum_scratch
from memgraph.gpu.spec import GpuSpec


def _product(call: Call, gpu: GpuSpec, version: Version) -> Steps:
    """`mm(self, mat2)`, `bmm(self, mat2)`, and `addmm(self, mat1, mat2)`, `baddbmm(self, batch1, batch2)`."""
    operands: Sequence[TensorMeta] = call.args[1:3] if "add" in call.op else call.args[:2]
    plan = Plan(call)
    plan.output()
    for operand in reversed(operands):
        if operand.numel and not _readable(operand):
            plan.temporary(operand.nbytes, "contiguous operand")
    return plan.steps()


def _readable(matrix: TensorMeta) -> bool:
    """Whether one of the last two strides is 1 and the other at least the length of that dimension."""
    (rows, columns), (down, across) = matrix.shape[-2:], matrix.stride[-2:]
    if len(matrix.shape) == 2 and is_dense(matrix):
        return True
    if (across == 1 and down >= max(1, columns)) or (down == 1 and across >= max(1, rows)):
        return True
    return len(matrix.shape) == 3 and matrix.is_contiguous and down != 0 and across != 0


def _matrix_vector(call: Call, gpu: GpuSpec, version: Version) -> Steps:
    """`mv(self, vec)`, `addmv(self, mat, vec)`: a broadcast vector is copied, then a matrix that cannot be read."""
    matrix, vector = call.args[1:3] if "add" in call.op else call.args[:2]
    plan = Plan(call)
    plan.output()
    if matrix.numel:
        if vector.stride == (0,):
            plan.contiguous(vector, "contiguous vector")
        plan.contiguous(None if _steps_by_one(matrix) else matrix, "contiguous matrix")
    return plan.steps()


def _steps_by_one(matrix: TensorMeta) -> bool:
    (rows, columns), (down, across) = matrix.shape, matrix.stride
    return (down == 1 and across >= max(1, rows)) or (across == 1 and down >= max(1, columns))


def _euclidean(call: Call, gpu: GpuSpec, version: Version) -> Steps:
    """`_euclidean_dist(x1, x2)`: squared norms and ones beside the points, so that one product gives the distances.
    Source: aten/src/ATen/native/Distance.cpp; measured on 512 x 64 and 8 x 1,024 x 3."""
    plan = Plan(call)
    sides = []
    for points in call.args[:2]:
        square = plan.temporary(points.nbytes, "squares")
        column = points.numel // points.shape[-1] * points.itemsize
        norm = plan.temporary(column, "squared norms")
        sum_scratch(plan, points, (len(points.shape) - 1,), True, gpu)
        plan.release(square)
        sides.append((points, column, norm, plan.temporary(column, "ones")))
    (first, column, *parts), (second, other, *others) = sides
    double = plan.temporary(first.nbytes, "points times -2")
    wide = plan.temporary(first.nbytes + 2 * column, "points, norms and ones")
    plan.release(*parts, double)
    plan.temporary(second.nbytes + 2 * other, "points, ones and norms")
    plan.release(*others)
    plan.output()
    plan.release(wide)
    return plan.steps()


def _distances(call: Call, gpu: GpuSpec, version: Version) -> Steps:
    """`_cdist_forward(x1, x2, p, compute_mode)`: contiguous points, then the result."""
    plan = Plan(call)
    for points in call.args[:2]:
        plan.contiguous(points, "contiguous points")
    plan.output()
    return plan.steps()


_DESCRIPTOR = 128
"""Bytes of a tensor map (`CUtensorMap`)."""


def _sum_of_products(call: Call, gpu: GpuSpec, version: Version) -> Steps | None:
    """`addbmm(self, batch1, batch2)`: one product after the other is added to the result. Known where each can be read
    as it lies. Source: `addbmm_out` of LinearAlgebra.cpp."""
    plan = Plan(call)
    plan.output()
    single = [tensor._replace(shape=tensor.shape[1:], stride=tensor.stride[1:]) for tensor in call.args[1:3]]
    return plan.steps() if all(_readable(tensor) for tensor in single) else None


def _grouped(call: Call, gpu: GpuSpec, version: Version) -> Steps | None:
    """`_grouped_mm(self, mat2, offs, …)` in bfloat16: one CUTLASS kernel on Hopper, with arguments of each group and
    descriptors of four matrices for each multiprocessor; other types are one product after the other. Source:
    aten/src/ATen/native/cuda/GroupMM.cu; the sizes were measured on an H200."""
    plan = Plan(call)
    plan.outputs()
    if call.args[0].dtype != "bfloat16":
        return plan.steps()
    return _one_kernel(plan, call, gpu, 60, 4)


def _scaled_grouped(call: Call, gpu: GpuSpec, version: Version) -> Steps | None:
    """`_scaled_grouped_mm(self, mat2, scale_a, scale_b, offs, …)`: with scales, and their descriptors too
    (ScaledGroupMM.cu)."""
    plan = Plan(call)
    plan.outputs()
    return _one_kernel(plan, call, gpu, 76, 5)


def _one_kernel(plan: Plan, call: Call, gpu: GpuSpec, arguments: int, descriptors: int) -> Steps | None:
    if gpu.capability != (9, 0):
        return None
    groups = next((a.shape[0] for a in call.args[:2] if len(a.shape) == 3), None)
    ends = call.arg(2 if call.op == "_grouped_mm" else 4, "offs")
    count = ends.shape[0] if isinstance(ends, TensorMeta) else groups or 1
    plan.scratch(arguments * count, gpu.sms * descriptors * _DESCRIPTOR, name="grouped product")
    return plan.steps()


RULES = {
    "_grouped_mm": _grouped,
    "_scaled_grouped_mm": _scaled_grouped,
    "addbmm": _sum_of_products,
    "_euclidean_dist": _euclidean,
    "_cdist_forward": _distances,
    **dict.fromkeys(("mm", "_int_mm", "bmm", "addmm", "addmm_", "_addmm_activation", "baddbmm", "baddbmm_"), _product),
    **dict.fromkeys(("mv", "addmv", "addmv_"), _matrix_vector),
}
