"""CTC loss: lengths and offsets copied to the device, the table of the forward and another like it for the backward.

Source: aten/src/ATen/native/cuda/LossCTC.cu (`ctc_loss_gpu_template`, `ctc_loss_backward_gpu_template`).
"""

from __future__ import annotations

from memgraph.gpu.call import Call, Steps, TensorMeta
from memgraph.gpu.rules.layout import Plan, dense
from memgraph.gpu.rules.reductions import Version, sum_scratch
from memgraph.gpu.spec import GpuSpec


def _forward(call: Call, gpu: GpuSpec, version: Version) -> Steps:
    """`_ctc_loss(log_probs, targets, input_lengths, target_lengths, …)`: the table comes before the losses."""
    plan = Plan(call)
    _lengths(plan, call.args[0].shape[1])
    plan.output(1)
    plan.output(0)
    return plan.steps()


def _lengths(plan: Plan, batch: int) -> None:
    for name in ("target lengths", "input lengths", "offsets of the labels"):
        plan.temporary(8 * batch, name)


def _backward(call: Call, gpu: GpuSpec, version: Version) -> Steps:
    """`_ctc_loss_backward(grad, log_probs, targets, input_lengths, target_lengths, losses, table, blank,
    zero_infinity)`: large problems take the blanks' part by ordinary ops."""
    plan, log_probs, table = Plan(call), call.args[1], call.args[6]
    steps, batch, labels = log_probs.shape
    _lengths(plan, batch)
    plan.temporary(table.nbytes, "table from the other end")
    large = 2 * steps + 24 * batch // 10 + 2 * labels // 10 > 450
    replaced = large and bool(call.arg(8, "zero_infinity", False))
    if replaced:
        plan.temporary(log_probs.nbytes, "gradient before infinite losses are left out")
    else:
        plan.output()
    if large:
        _blanks(plan, dense((batch, steps, table.shape[2] // 2 + 1), table.dtype), gpu)
    if replaced:
        plan.scratch(log_probs.itemsize, batch, name="a zero, and which losses are infinite")
        plan.output()
    return plan.steps()


def _blanks(plan: Plan, table: TensorMeta, gpu: GpuSpec) -> None:
    """Both tables added at the blanks, and the log-sum-exp of that."""
    both = plan.temporary(table.nbytes, "tables at the blanks")
    each = table.nbytes // table.shape[2]
    maxima = plan.temporary(each, "maxima")
    plan.scratch(each, each // table.itemsize, name="infinite maxima")
    shifted = plan.temporary(table.nbytes, "shifted exponentials")
    result = plan.temporary(each, "log-sum-exp")
    sum_scratch(plan, table, (2,), True, gpu)
    plan.release(shifted, maxima, both, result)


RULES = {"_ctc_loss": _forward, "_ctc_loss_backward": _backward}
