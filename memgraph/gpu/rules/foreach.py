"""Ops over lists of tensors that reduce: gradient norms for clipping.

Source: aten/src/ATen/native/cuda/ForeachReduceOp.cu (`foreach_tensor_norm_cuda`, `foreach_tensor_max_cuda`),
MultiTensorApply.cuh.
"""

from __future__ import annotations

from collections.abc import Sequence

from memgraph.gpu.call import Call, Steps, TensorMeta
from memgraph.gpu.rules.layout import INTEGRAL, ITEMSIZE, Plan, accumulate_type, ceil_div, is_dense
from memgraph.gpu.rules.reductions import Version, reduce_as
from memgraph.gpu.spec import GpuSpec

_CHUNK = 65536
"""Elements that one block handles (`kChunkSize`)."""


def _norm(call: Call, gpu: GpuSpec, version: Version) -> Steps:
    """`_foreach_norm(self, ord, dtype)`: a partial norm for each chunk of each tensor, as many as the largest tensor
    has."""
    plan, tensors = Plan(call), call.args[0]
    order, dtype = call.arg(1, "ord", 2), call.arg(2, "dtype") or tensors[0].dtype
    if not _fast(tensors) or order not in (1, 2, float("inf")):
        for index, tensor in enumerate(tensors):
            plan.output(index)
            reduce_as(plan, tensor, (), False, dtype, gpu)
        return plan.steps()
    plan.temporary(_partials(tensors) * ITEMSIZE[accumulate_type(dtype)], "partial norms")
    plan.outputs()
    return plan.steps()


def _max(call: Call, gpu: GpuSpec, version: Version) -> Steps | None:
    """`_foreach_max(self)`."""
    plan, tensors = Plan(call), call.args[0]
    if not _fast(tensors):
        return None
    plan.temporary(_partials(tensors) * tensors[0].itemsize, "partial maxima")
    plan.outputs()
    return plan.steps()


def _partials(tensors: Sequence[TensorMeta]) -> int:
    return len(tensors) * max(ceil_div(tensor.numel, _CHUNK) for tensor in tensors)


def _fast(tensors: Sequence[TensorMeta]) -> bool:
    """Whether one kernel takes the whole list: one real dtype, every tensor dense. Source: `can_use_fast_route`."""
    alike = len({tensor.dtype for tensor in tensors}) == 1
    real = tensors[0].dtype not in INTEGRAL and not tensors[0].dtype.startswith("complex")
    return alike and real and all(is_dense(tensor) for tensor in tensors)


RULES = {"_foreach_norm": _norm, "_foreach_max": _max}
