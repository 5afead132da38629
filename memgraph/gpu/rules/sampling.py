"""Sampling by given probabilities.

Sources: aten/src/ATen/native/Distributions.cpp (`multinomial_out`), cuda/MultinomialKernel.cu
(`multinomial_with_replacement_kernel_impl`); recorded on an H200 for 64 x 1,000 and 64 x 50,257.
"""

from __future__ import annotations

from memgraph.gpu.call import Call, Steps, TensorMeta
from memgraph.gpu.rules import cub
from memgraph.gpu.rules.layout import Plan, dense, like
from memgraph.gpu.rules.reductions import Version, argmax_scratch, maximum_scratch, sum_scratch
from memgraph.gpu.rules.sorting import topk_scratch
from memgraph.gpu.spec import GpuSpec


def _multinomial(call: Call, gpu: GpuSpec, version: Version) -> Steps | None:
    """`multinomial(self, num_samples, replacement)`: one of each row, or several without replacement, are the largest
    of probabilities over exponential noise; with replacement they are looked up in running sums."""
    plan, source, count = Plan(call), call.args[0], call.args[1]
    plan.output()
    if not source.numel or not count:
        return plan.steps()
    if bool(call.arg(2, "replacement", False)) and count != 1:
        return _with_replacement(plan, source)
    checks = _checks(plan, source, gpu)
    noise = plan.temporary(like(source, source.dtype).nbytes, "exponential noise")
    best = -1
    if count == 1:
        argmax_scratch(plan, like(source, source.dtype), gpu)
    else:
        best = plan.temporary(source.numel // source.shape[-1] * count * source.itemsize, "largest quotients")
        topk_scratch(plan, like(source, source.dtype), gpu)
    plan.release(best, noise, *reversed(checks))
    return plan.steps()


def _checks(plan: Plan, source: TensorMeta, gpu: GpuSpec) -> list[int]:
    """That all are finite and none is negative, and that no row adds up to nothing: bools that kernels assert."""
    bounds = []
    for name in ("largest", "smallest"):
        bounds.append(plan.temporary(source.itemsize, name))
        maximum_scratch(plan, source, gpu)
        bounds.append(plan.temporary(1, f"whether the {name} is right"))
    valid = plan.temporary(1, "whether all are right")
    plan.release(*reversed(bounds))
    rows = source.numel // source.shape[-1] if len(source.shape) > 1 else 1
    total = plan.temporary(rows * source.itemsize, "sums")
    sum_scratch(plan, source, (len(source.shape) - 1,), False, gpu)
    zero = plan.temporary(rows, "whether a sum is zero")
    if len(source.shape) > 1:
        found = plan.temporary(1, "whether any is")
        plan.release(zero, total)
        zero = found
    else:
        plan.release(total)
    plan.scratch(1, name="whether none is")
    return [valid, zero]


def _with_replacement(plan: Plan, source: TensorMeta) -> Steps:
    """The probabilities, divided by their sums, and their running sums."""
    kept = [plan.temporary(source.nbytes, name) for name in ("probabilities", "shares", "running sums")]
    if source.numel == source.shape[-1]:
        plan.scratch(cub.scan(source.numel, source.itemsize), name="scan")
    plan.release(*reversed(kept))
    return plan.steps()


def _dirichlet(call: Call, gpu: GpuSpec, version: Version) -> Steps:
    """`_sample_dirichlet(alpha)`: gamma variates, divided by their sums (`_s_dirichlet_cuda` of Distributions.cpp)."""
    plan, source = Plan(call), call.args[0]
    plan.output()
    if source.numel and source.shape:
        sums = plan.temporary(source.numel // source.shape[-1] * source.itemsize, "sums")
        sum_scratch(plan, dense(source.shape, source.dtype), (len(source.shape) - 1,), True, gpu)
        plan.release(sums)
    return plan.steps()


RULES = {"multinomial": _multinomial, "_sample_dirichlet": _dirichlet}
