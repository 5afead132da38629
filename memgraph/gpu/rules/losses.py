"""Softmax, losses and dropout.

Sources: aten/src/ATen/native/cuda/SoftMax.cu (`host_softmax`, `softmax_backward_cuda_out`), Loss.cu (`nll_loss_…`),
NLLLoss2d.cu, Dropout.cu (`dropout_cuda`), aten/src/ATen/native/Loss.cpp (`mse_loss_out`, `smooth_l1_loss_out`,
`huber_loss`, `binary_cross_entropy_with_logits`), transformers/attention.cpp (`_safe_softmax`).
"""

from __future__ import annotations

from typing import Any

from memgraph.gpu.call import Call, Steps, TensorMeta
from memgraph.gpu.rules.iterator import reduction
from memgraph.gpu.rules.layout import Plan, broadcast, dense, wrap
from memgraph.gpu.rules.reduce import Kernel, reduce_scratch
from memgraph.gpu.rules.reductions import Version, sum_scratch
from memgraph.gpu.spec import GpuSpec

_NONE, _MEAN = 0, 1
"""Values of a `reduction` argument; 2 is the sum."""


def _softmax(call: Call, gpu: GpuSpec, version: Version) -> Steps:
    """`_softmax(self, dim, half_to_float)`, `_log_softmax`: the result, then a contiguous copy of a strided input."""
    plan = Plan(call)
    plan.output()
    plan.contiguous(call.args[0], "contiguous input")
    return plan.steps()


def _safe_softmax(call: Call, gpu: GpuSpec, version: Version) -> Steps | None:
    """`_safe_softmax(self, dim, dtype)` of attention's math path: a softmax, and zeros in rows of minus infinities.
    The zeros go into the softmax's own result (the profiler's memory events of 2.11 and of 2.13)."""
    plan, source = Plan(call), call.args[0]
    if call.arg(2, "dtype") not in (None, source.dtype) or not source.shape:
        return None
    plan.output()
    plan.release(plan.contiguous(source, "contiguous input"))
    mask = dense(source.shape, "bool")
    plan.temporary(mask.nbytes, "mask of minus infinities")
    dim = wrap(call.args[1], len(source.shape))
    plan.temporary(mask.numel // max(source.shape[dim], 1), "rows that are all masked")
    reduce_scratch(plan, reduction(mask, (dim,), True, (1,)), Kernel(1), gpu)
    plan.temporary(source.itemsize, "zero")
    return plan.steps()


def _softmax_backward(call: Call, gpu: GpuSpec, version: Version) -> Steps:
    """`_softmax_backward_data(grad_output, output, dim, input_dtype)`: also the product of gradient and output."""
    plan, (grad, result) = Plan(call), call.args[:2]
    plan.output()
    if call.op == "_softmax_backward_data":
        plan.temporary(grad.nbytes, "gradient times output")
        if not grad.is_contiguous:
            plan.temporary(grad.nbytes, "contiguous gradient")
    else:
        plan.contiguous(grad, "contiguous gradient")
    plan.contiguous(result, "contiguous output")
    return plan.steps()


def _nll_loss(call: Call, gpu: GpuSpec, version: Version) -> Steps:
    """`nll_loss_forward(self, target, weight, reduction, ignore_index)`: loss and total weight, then contiguous
    copies."""
    plan = Plan(call)
    plan.outputs()
    for argument in call.args[:3]:
        plan.contiguous(_tensor(argument), "contiguous copy")
    return plan.steps()


def _nll_loss_backward(call: Call, gpu: GpuSpec, version: Version) -> Steps:
    """`nll_loss_backward(grad_output, self, target, weight, reduction, ignore_index, total_weight)`."""
    plan = Plan(call)
    plan.output()
    for position in (2, 1, 0, 3):
        plan.contiguous(_tensor(call.args[position]), "contiguous copy")
    return plan.steps()


def _nll_loss2d(call: Call, gpu: GpuSpec, version: Version) -> Steps:
    """`nll_loss2d_forward(self, target, weight, reduction, ignore_index)`: the total weight comes before the loss."""
    plan = Plan(call)
    plan.output(1)
    plan.output(0)
    if call.args[3] != _NONE:
        for position in (0, 2, 1):
            plan.contiguous(_tensor(call.args[position]), "contiguous copy")
    return plan.steps()


def _nll_loss2d_backward(call: Call, gpu: GpuSpec, version: Version) -> Steps:
    """`nll_loss2d_backward(grad_output, self, target, weight, reduction, ignore_index, total_weight)`."""
    plan = Plan(call)
    plan.output()
    for position in (3,) if call.args[4] == _NONE else (2, 3):
        plan.contiguous(_tensor(call.args[position]), "contiguous copy")
    return plan.steps()


def _tensor(argument: Any) -> TensorMeta | None:
    return argument if isinstance(argument, TensorMeta) else None


def _elementwise_loss(call: Call, gpu: GpuSpec, version: Version) -> Steps:
    """`mse_loss(self, target, reduction)`, `smooth_l1_loss(…)`: the loss of each element, then its mean or sum."""
    plan, loss = Plan(call), _losses(call)
    plan.output()
    if call.arg(2, "reduction", _MEAN) != _NONE:
        plan.temporary(loss.nbytes, "loss of each element")
        sum_scratch(plan, loss, (), False, gpu)
    return plan.steps()


def _huber_loss(call: Call, gpu: GpuSpec, version: Version) -> Steps:
    """`huber_loss(self, target, reduction, delta)`: not structured, so the mean comes after the losses."""
    plan, loss = Plan(call), _losses(call)
    _reduced_last(plan, loss, call.arg(2, "reduction", _MEAN), gpu)
    return plan.steps()


def _reduced_last(plan: Plan, loss: TensorMeta, how: int, gpu: GpuSpec) -> None:
    if how == _NONE:
        plan.output()
        return
    plan.temporary(loss.nbytes, "loss of each element")
    plan.output()
    sum_scratch(plan, loss, (), False, gpu)


def _losses(call: Call) -> TensorMeta:
    """One loss for each pair of elements. The dtype is that of the first; mixed dtypes do not occur under autocast."""
    return dense(broadcast([call.args[0].shape, call.args[1].shape]), call.args[0].dtype)


def _bce(call: Call, gpu: GpuSpec, version: Version) -> Steps:
    """`binary_cross_entropy(self, target, weight, reduction)`: the loss of each element is the result's storage, and
    what it comes to is copied into it."""
    return _reduced_in_place(call, call.arg(3, "reduction", _MEAN), gpu)


def _reduced_in_place(call: Call, how: int, gpu: GpuSpec) -> Steps:
    plan, loss = Plan(call), _losses(call)
    plan.output()
    if how != _NONE:
        plan.temporary(loss.itemsize, "loss")
        sum_scratch(plan, loss, (), False, gpu)
    return plan.steps()


def _soft_margin(call: Call, gpu: GpuSpec, version: Version) -> Steps:
    """`soft_margin_loss(self, target, reduction)`: log(1 + exp(-t x)), in place (Loss.cpp), and likewise."""
    return _reduced_in_place(call, call.arg(2, "reduction", _MEAN), gpu)


def _soft_margin_backward(call: Call, gpu: GpuSpec, version: Version) -> Steps:
    """`soft_margin_loss_backward(grad_output, self, target, reduction)`: exp(-t x), and one more than it."""
    plan, size = Plan(call), call.args[1].nbytes
    plan.output()
    power = plan.temporary(size, "exponential")
    plan.release(power, plan.temporary(size, "product with the gradient"))
    plan.scratch(size, name="divisor")
    return plan.steps()


def _multi_margin(call: Call, gpu: GpuSpec, version: Version) -> Steps | None:
    """`multi_margin_loss(self, target, p, margin, weight, reduction)`: the loss of each sample (MultiMarginLoss.cu)."""
    plan, source = Plan(call), call.args[0]
    plan.output()
    if len(source.shape) == 2 and call.arg(5, "reduction", _MEAN) != _NONE:
        plan.scratch(source.shape[0] * source.itemsize, name="loss of each sample")
    return plan.steps()


def _multilabel_margin(call: Call, gpu: GpuSpec, version: Version) -> Steps | None:
    """`multilabel_margin_loss_forward(self, target, reduction)`: which are targets, the loss of each sample, and their
    mean (MultiLabelMarginCriterion.cu)."""
    plan, source = Plan(call), call.args[0]
    if len(source.shape) != 2 or call.arg(2, "reduction", _MEAN) == _NONE:
        return None
    plan.output(1)
    plan.temporary(source.shape[0] * source.itemsize, "loss of each sample")
    plan.output(0)
    return plan.steps()


def _bce_with_logits(call: Call, gpu: GpuSpec, version: Version) -> Steps:
    """`binary_cross_entropy_with_logits(self, target, weight, pos_weight, reduction)`: a chain of element-wise ops."""
    plan, loss = Plan(call), _losses(call)
    plan.temporary(call.args[0].nbytes, "log sigmoid")
    positive = _tensor(call.arg(3, "pos_weight"))
    if positive is not None:
        less_one = plan.temporary(positive.nbytes, "positive weight less one")
        scaled = plan.temporary(loss.nbytes, "positive weight of each element")
        plan.release(less_one, scaled)
    _reduced_last(plan, loss, call.arg(4, "reduction", _MEAN), gpu)
    return plan.steps()


def _dropout(call: Call, gpu: GpuSpec, version: Version) -> Steps:
    """`native_dropout(input, p, train)`: the mask is made before the result; not so in evaluation."""
    plan = Plan(call)
    training = call.arg(2, "train", True)
    for index in (1, 0) if training is not False and call.args[1] != 1 else (0, 1):
        plan.output(index)
    return plan.steps()


RULES = {
    "binary_cross_entropy": _bce,
    "soft_margin_loss": _soft_margin,
    "soft_margin_loss_backward": _soft_margin_backward,
    "multi_margin_loss": _multi_margin,
    "multilabel_margin_loss_forward": _multilabel_margin,
    "_softmax": _softmax,
    "_log_softmax": _softmax,
    "_safe_softmax": _safe_softmax,
    "_softmax_backward_data": _softmax_backward,
    "_log_softmax_backward_data": _softmax_backward,
    "nll_loss_forward": _nll_loss,
    "nll_loss_backward": _nll_loss_backward,
    "nll_loss2d_forward": _nll_loss2d,
    "nll_loss2d_backward": _nll_loss2d_backward,
    "mse_loss": _elementwise_loss,
    "smooth_l1_loss": _elementwise_loss,
    "huber_loss": _huber_loss,
    "binary_cross_entropy_with_logits": _bce_with_logits,
    "native_dropout": _dropout,
}
