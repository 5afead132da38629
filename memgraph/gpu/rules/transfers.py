"""Copies between the host and the card. Elements travel in one stretch and in one type: where the two sides differ in
order of dimensions, or a conversion is left to the card, there is a tensor on the card between them.

Source: aten/src/ATen/native/cuda/Copy.cu (`copy_requires_temporaries`, `copy_kernel_cuda`).
"""

from __future__ import annotations

from memgraph.gpu.call import Call, Steps, TensorMeta
from memgraph.gpu.rules.layout import Plan, expanded, is_dense
from memgraph.gpu.rules.reductions import Version
from memgraph.gpu.spec import GpuSpec

_BETWEEN = "copy between host and card"


def _to_copy(call: Call, gpu: GpuSpec, version: Version) -> Steps:
    """`_to_copy(self, *, dtype, layout, device, pin_memory, non_blocking, memory_format)`."""
    plan, source = Plan(call), call.args[0]
    if call.outputs and isinstance(source, TensorMeta):
        plan.output()
        _transfer(plan, call.outputs[0], source, bool(call.arg(5, "non_blocking", False)))
    return plan.steps()


def _copy(call: Call, gpu: GpuSpec, version: Version) -> Steps:
    """`copy_(self, src, non_blocking)`."""
    plan, (target, source) = Plan(call), call.args[:2]
    if isinstance(target, TensorMeta) and isinstance(source, TensorMeta):
        _transfer(plan, target, expanded(source, target.shape), bool(call.arg(2, "non_blocking", False)))
    return plan.steps()


def _transfer(plan: Plan, target: TensorMeta, source: TensorMeta, non_blocking: bool) -> None:
    same_type = target.dtype == source.dtype
    if target.device == source.device or (same_type and _alike(target, source)):
        return
    converts_on_card = non_blocking and not same_type
    if target.device == "cuda":
        if not target.is_contiguous or converts_on_card:
            itemsize = source.itemsize if converts_on_card else target.itemsize
            plan.scratch(target.numel * itemsize, name=_BETWEEN)
        return
    converted = source._replace(dtype=target.dtype, itemsize=target.itemsize) if converts_on_card else source
    sizes = [converted.nbytes] if converts_on_card else []
    plan.scratch(*sizes, *([] if source.is_contiguous else [converted.nbytes]), name=_BETWEEN)


def _alike(one: TensorMeta, other: TensorMeta) -> bool:
    """Whether a single stretch of both holds the elements in the same order (`TensorIterator::is_contiguous`)."""
    if one.numel <= 1 or (one.is_contiguous and other.is_contiguous):
        return True
    strides = zip(one.shape, one.stride, other.stride, strict=True)
    return is_dense(one) and is_dense(other) and all(mine == its for size, mine, its in strides if size > 1)


RULES = {"_to_copy": _to_copy, "copy_": _copy}
