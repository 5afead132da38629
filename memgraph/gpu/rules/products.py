"""Matrix products: operands whose layout cuBLAS cannot read are copied, the second before the first.

The library's own workspace is kept from call to call and is not here. Sources: aten/src/ATen/native/cuda/Blas.cpp
(`prepare_batch_matrix_for_cublas`, `addmv_out_cuda`), cuBlasCommonArgs.h (`prepare_matrix_for_cublas`).
"""

from __future__ import annotations

from collections.abc import Sequence

from memgraph.gpu.call import Call, Steps, TensorMeta
from memgraph.gpu.rules.layout import Plan, is_dense
from memgraph.gpu.rules.reductions import Version
from memgraph.gpu.specs import GpuSpec


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


RULES = {
    **dict.fromkeys(("mm", "bmm", "addmm", "addmm_", "_addmm_activation", "baddbmm", "baddbmm_"), _product),
    **dict.fromkeys(("mv", "addmv", "addmv_"), _matrix_vector),
}
