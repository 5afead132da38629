"""torchvision's operators for detectors.

Sources: torchvision/csrc/ops/cuda/nms_kernel.cu, roi_align_kernel.cu and roi_pool_kernel.cu of torchvision
0.26 to 0.29; `nms` was recorded on an H200 for 3,375 boxes.
"""

from __future__ import annotations

from memgraph.gpu.call import Call, Steps
from memgraph.gpu.rules.indexing import nonzero_scratch, select_scratch
from memgraph.gpu.rules.layout import Plan, ceil_div, dense
from memgraph.gpu.rules.reductions import Version
from memgraph.gpu.rules.sorting import sort_scratch
from memgraph.gpu.spec import GpuSpec

_BITS = 64
"""Boxes whose overlaps with another fit into one word."""


def _nms(call: Call, gpu: GpuSpec, version: Version) -> Steps | None:
    """`nms(dets, scores, iou_threshold)`: boxes by their scores, a bit for each pair of them, and who is kept."""
    boxes, scores = call.args[:2]
    count = scores.numel
    plan = Plan(call)
    if not count:
        return plan.steps()
    sorted_scores = plan.temporary(scores.nbytes, "sorted scores")
    plan.temporary(count * 8, "order")
    if not sort_scratch(plan, scores, 0, gpu):
        return None
    plan.release(sorted_scores)
    plan.temporary(boxes.nbytes, "boxes by their scores")
    plan.temporary(count * ceil_div(count, _BITS) * 8, "overlaps")
    kept = dense((count,), "bool")
    plan.temporary(count, "who is kept")
    held = nonzero_scratch(plan, kept, gpu)
    places = plan.temporary(8 * (call.outputs[0].numel if call.outputs else 0), "places of the kept")
    select_scratch(plan, kept, held, gpu)
    plan.output()
    plan.release(places)
    return plan.steps()


def _pooled(call: Call, gpu: GpuSpec, version: Version) -> Steps:
    """`roi_align(input, rois, …)`, `roi_pool(input, rois, …)`: results, then contiguous copies of what is read."""
    plan = Plan(call)
    plan.outputs()
    for tensor in call.args[:2]:
        plan.contiguous(tensor, "contiguous input")
    return plan.steps()


def _spread(call: Call, gpu: GpuSpec, version: Version) -> Steps:
    """`_roi_align_backward(grad, rois, …)`, which reads the gradient by its strides."""
    plan = Plan(call)
    plan.outputs()
    plan.contiguous(call.args[1], "contiguous regions")
    return plan.steps()


RULES = {
    "torchvision::nms": _nms,
    "torchvision::roi_align": _pooled,
    "torchvision::roi_pool": _pooled,
    "torchvision::_roi_align_backward": _spread,
}
