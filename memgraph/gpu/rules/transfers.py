"""Copies between the host and the card. Elements travel in one stretch and in one type: where the two sides differ in
order of dimensions, or a conversion is left to the card, there is a tensor on the card between them.

Source: aten/src/ATen/native/cuda/Copy.cu (`copy_requires_temporaries`, `copy_kernel_cuda`).
"""

from __future__ import annotations

from memgraph.gpu.call import Call, Steps, TensorMeta
from memgraph.gpu.rules.layout import Plan, dense, expanded, is_dense, like
from memgraph.gpu.rules.reductions import Version
from memgraph.gpu.spec import GpuSpec

_FORMS = ("None", "torch.preserve_format", "torch.contiguous_format")
_BETWEEN = "copy between host and card"


def _to_copy(call: Call, gpu: GpuSpec, version: Version) -> Steps:
    """`_to_copy(self, *, dtype, layout, device, pin_memory, non_blocking, memory_format)`."""
    plan, source = Plan(call), call.args[0]
    if isinstance(source, TensorMeta):
        plan.output()
        target = call.outputs[0] if call.outputs else _on_host(call, source)
        if target is not None:
            _transfer(plan, target, source, bool(call.arg(5, "non_blocking", False)))
    return plan.steps()


def _on_host(call: Call, source: TensorMeta) -> TensorMeta | None:
    """The result of `_to_copy` where it is in host memory, which is no output of the card's: in the order that
    `empty_like` gives it. None where nothing is copied, or in an order that is not followed."""
    form = call.arg(6, "memory_format")
    if not str(call.arg(3, "device")).startswith("cpu") or str(form) not in _FORMS:
        return None
    target = like(source, call.arg(1, "dtype") or source.dtype)
    if str(form) == "torch.contiguous_format":
        target = dense(target.shape, target.dtype)
    return target._replace(device="cpu")


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
