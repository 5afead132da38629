"""Gradients of embeddings: small ones in one kernel, larger ones by sorting the indices and adding up segments.

Sources: aten/src/ATen/native/cuda/Embedding.cu (`embedding_dense_backward_cuda`, `embedding_renorm_cuda_`),
EmbeddingBackwardKernel.cu (`embedding_backward_cuda_kernel`), EmbeddingBag.cu (`_embedding_bag_cuda`,
`embedding_bag_backward_cuda_sum_avg`), aten/src/ATen/cuda/cub.cuh (`unique_by_key`).
"""

from __future__ import annotations

from memgraph.gpu.call import Call, Steps, TensorMeta
from memgraph.gpu.rules import cub
from memgraph.gpu.rules.layout import ITEMSIZE, Plan, accumulate_type
from memgraph.gpu.rules.reductions import Version
from memgraph.gpu.spec import GpuSpec

_FEW = 3072
"""Indices up to which one kernel does it all (`embedding_backward_feature_kernel`)."""
_MAXIMUM = 2
"""`mode` of an embedding bag that takes the maximum."""
_ROWS = 10
"""Rows that one partial sum adds up (`NROWS_PER_THREAD`)."""


def _dense_backward(call: Call, gpu: GpuSpec, version: Version) -> Steps | None:
    """`embedding_dense_backward(grad_output, indices, num_weights, padding_idx, scale_grad_by_freq)`."""
    plan, grad, indices = Plan(call), call.args[0], call.args[1]
    scaled = bool(call.arg(4, "scale_grad_by_freq", False))
    plan.contiguous(indices, "contiguous indices")
    plan.contiguous(grad, "contiguous gradient")
    if indices.numel <= _FEW and not scaled:
        plan.output()
        return plan.steps()
    return plan.steps() if _sorted_backward(plan, grad, indices, call.args[2], gpu, scaled) else None


def _bag(call: Call, gpu: GpuSpec, version: Version) -> Steps:
    """`_embedding_bag(weight, indices, offsets, …)`: sizes of the bags, the bag of each index, the result, and for the
    maximum the index that each element came from. Returned are the result, the bags, the sizes, the maxima."""
    plan, indices, offsets = Plan(call), call.args[1], call.args[2]
    if indices.dtype != offsets.dtype:
        narrow = indices if indices.itemsize < offsets.itemsize else offsets
        plan.temporary(narrow.numel * 8, "indices and offsets of one type")
    shapes = [output.shape for output in call.outputs]
    if len(shapes) < 3:
        plan.outputs()
        return plan.steps()
    for index in (2, 1, 0, 3):
        plan.output(index)
    return plan.steps()


def _bag_dense_backward(call: Call, gpu: GpuSpec, version: Version) -> Steps | None:
    """`_embedding_bag_dense_backward(grad, indices, offset2bag, bag_size, maximum_indices, num_weights,
    scale_grad_by_freq, mode, …)`: as an embedding's whose indices are many; a maximum is scattered in one kernel."""
    plan, grad, indices = Plan(call), call.args[0], call.args[1]
    plan.contiguous(grad, "contiguous gradient")
    if call.args[7] == _MAXIMUM or not indices.numel:
        plan.output()
        return plan.steps()
    return plan.steps() if _sorted_backward(plan, grad, indices, call.args[5], gpu, call.args[6]) else None


def _sorted_backward(
    plan: Plan, grad: TensorMeta, indices: TensorMeta, weights: int, gpu: GpuSpec, scaled: bool
) -> bool:
    """Sort the indices, find where each begins, cut its rows into pieces of ten, add up pieces, then each index's
    pieces."""
    count, size = indices.numel, indices.itemsize
    sort = cub.radix_sort(count, size, size, gpu.capability)
    if sort is None:
        return False
    plan.temporary(count * size, "sorted indices")
    plan.temporary(count * size, "original places")
    places = plan.temporary(count * size, "places")
    plan.scratch(sort, name="sort")
    plan.release(places)
    if scaled:
        plan.temporary(count * size, "count of each index")
        for _ in range(2):
            plan.scratch(cub.scan_by_key(count, size), name="scan")
    plan.output()
    segments = min(count, weights)
    plan.temporary(count * size, "segment starts")
    plan.temporary(8, "number of segments")
    plan.scratch(count * size, cub.unique_by_key(count, size, gpu.capability), name="distinct indices")
    plan.temporary(segments * size, "pieces of each segment")
    plan.temporary(segments * size, "first piece of each segment")
    plan.scratch(cub.scan(segments, size), name="scan")
    plan.temporary(8, "number of pieces")
    pieces = count // _ROWS + segments
    plan.temporary(pieces * size, "piece starts")
    plan.scratch(pieces * grad.shape[-1] * ITEMSIZE[accumulate_type(grad.dtype)], name="sums of pieces")
    return True


RULES = {
    "embedding_dense_backward": _dense_backward,
    "_embedding_bag": _bag,
    "_embedding_bag_forward_only": _bag,
    "_embedding_bag_dense_backward": _bag_dense_backward,
}
