"""Convolutions through cuDNN: layout changes, and what its kernels need.

PyTorch's part (aten/src/ATen/native/Convolution.cpp, cudnn/Conv_v8.cpp) is exact: contiguous copies in the layout of
the input, outputs, one workspace a cuDNN call, the bias gradient as an ordinary sum. cuDNN's part is its own
heuristics. What was measured on an H200 with cuDNN 9.19 (`tests/data/ops_h200_convolution.json.gz`, and nanoVLM's
recordings): half-type kernels work on NHWC, so NCHW input, weight and output are rewritten with channels padded to 8,
plus 16 bytes; a weight gradient over many positions is split in three with fp32 partial sums. Everything said beyond
those measurements is marked as an estimate.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from memgraph.gpu.call import Call, Steps, TensorMeta
from memgraph.gpu.rules.layout import Plan, ceil_div
from memgraph.gpu.rules.reductions import sum_scratch

if TYPE_CHECKING:
    from memgraph.gpu.specs import GpuSpec

Version = tuple[int, int]
_HALF = ("float16", "bfloat16")
_TRANSFORM = 16
"""Bytes beside the rewritten tensors; measured."""
_SPLIT_POSITIONS = 2500
"""Output positions (batch x height x width) above which the weight gradient of a patch embedding is split; measured to
change between 2,352 and 3,136."""
_SPLIT_COPIES = 6
"""Three fp32 partial sums, in units of the half-type weight."""
_SPLIT_ALIGNMENT = 128
_LARGE_IMAGE = 512
"""Pixels a side from which a bf16 patch embedding's forward takes NCHW as it is; measured at 512, not at 384."""
_ESTIMATE = "cuDNN workspace (estimate)"
_MEASURED = "cuDNN workspace"


class _Shape:
    """The parts of a convolution that decide."""

    def __init__(self, source: TensorMeta, weight: TensorMeta, stride: Any, groups: int, transposed: bool) -> None:
        self.source = source
        self.weight = weight
        self.groups = groups
        self.transposed = transposed
        self.kernel = weight.shape[2:]
        self.patches = all(
            size == step for size, step in zip(self.kernel, _each(stride, len(self.kernel)), strict=True)
        )
        self.pointwise = all(size == 1 for size in self.kernel) and all(
            step == 1 for step in _each(stride, len(self.kernel))
        )
        self.half = source.dtype in _HALF
        self.last = _channels_last(source) or _channels_last(weight)
        self.depthwise = groups == source.shape[1] and groups > 1 and weight.shape[0] % source.shape[1] == 0

    @property
    def own_kernel(self) -> bool:
        """PyTorch's own depthwise kernels, which need nothing."""
        return self.depthwise and not self.last and len(self.kernel) == 2


def _forward(call: Call, gpu: GpuSpec, version: Version) -> Steps:
    """`convolution(input, weight, bias, stride, padding, dilation, transposed, output_padding, groups)`."""
    source, weight = call.args[0], call.args[1]
    shape = _Shape(source, weight, call.args[3], call.args[8], call.args[6])
    plan = Plan(call)
    if not shape.last:
        plan.contiguous(source, "contiguous input")
        plan.contiguous(weight, "contiguous weight")
    plan.output(0)
    out = call.outputs[0] if call.outputs else source
    size = _forward_workspace(shape, out)
    plan.temporary(size, _name(shape, gpu))
    return plan.steps()


def _forward_workspace(shape: _Shape, out: TensorMeta) -> int:
    if shape.own_kernel or shape.last or shape.pointwise or not shape.half or shape.groups > 1:
        return 0
    if shape.source.shape[1] % 8 and shape.source.shape[1] != 3:
        return 0
    if shape.patches and shape.source.dtype == "bfloat16" and min(shape.source.shape[2:]) >= _LARGE_IMAGE:
        return 0
    return _rewritten(shape, out) + _TRANSFORM


def _rewritten(shape: _Shape, out: TensorMeta) -> int:
    """Input, weight and output in NHWC, channels padded to 8 in half types and to 4 in fp32."""
    step = 8 if shape.half else 4
    channels = ceil_div(shape.source.shape[1], step) * step
    item = shape.source.itemsize
    source = shape.source.shape[0] * channels * math.prod(shape.source.shape[2:]) * item
    return source + _padded_weight(shape) + out.nbytes


def _padded_weight(shape: _Shape) -> int:
    step = 8 if shape.half else 4
    channels = ceil_div(shape.weight.shape[1], step) * step
    return shape.weight.shape[0] * channels * math.prod(shape.kernel) * shape.weight.itemsize


def _backward(call: Call, gpu: GpuSpec, version: Version) -> Steps:
    """`convolution_backward(grad, input, weight, bias_sizes, stride, padding, dilation, transposed, output_padding,
    groups, output_mask)`: the input's gradient, the weight's, the bias's, each with its own temporaries."""
    grad, source, weight = call.args[0], call.args[1], call.args[2]
    wants_input, wants_weight, wants_bias = call.args[10]
    shape = _Shape(source, weight, call.args[4], call.args[9], call.args[7])
    plan = Plan(call)
    if not shape.last:
        plan.contiguous(grad, "contiguous gradient")
        plan.contiguous(source, "contiguous input")
        plan.contiguous(weight, "contiguous weight")
    index = 0
    for wanted, size in (
        (wants_input, _input_gradient_workspace(shape, grad)),
        (wants_weight, _weight_gradient_workspace(shape, grad)),
    ):
        if wanted:
            plan.output(index)
            plan.scratch(size, name=_name(shape, gpu))
            index += 1
    if wants_bias:
        plan.output(index)
        sum_scratch(plan, grad, (0, *range(2, len(grad.shape))), False, gpu)
    return plan.steps()


def _input_gradient_workspace(shape: _Shape, grad: TensorMeta) -> int:
    if shape.own_kernel or shape.last or shape.pointwise or shape.groups > 1:
        return 0
    return _rewritten(shape, grad) + _TRANSFORM


def _weight_gradient_workspace(shape: _Shape, grad: TensorMeta) -> int:
    if shape.own_kernel or shape.last or shape.pointwise or shape.groups > 1:
        return 0
    positions = grad.shape[0] * math.prod(grad.shape[2:])
    if not shape.patches:
        return _rewritten(shape, grad) + _TRANSFORM
    if not shape.half:
        return _rewritten(shape, grad) + _TRANSFORM + _SPLIT_ALIGNMENT
    if positions > _SPLIT_POSITIONS:
        return _rewritten(shape, grad) + _SPLIT_COPIES * _padded_weight(shape) + _SPLIT_ALIGNMENT + _TRANSFORM
    return _rewritten(shape, grad) + _TRANSFORM


def _name(shape: _Shape, gpu: GpuSpec) -> str:
    """Whether the workspace was measured for such a call: a patch embedding of three channels on Hopper."""
    measured = shape.patches and shape.source.shape[1] == 3 and gpu.capability == (9, 0) and not shape.last
    return _MEASURED if measured or shape.own_kernel else _ESTIMATE


def _channels_last(tensor: TensorMeta) -> bool:
    """Whether it is laid out NHWC (and not, trivially, NCHW as well)."""
    if len(tensor.shape) != 4 or tensor.is_contiguous:
        return False
    _, c, h, w = tensor.shape
    return tensor.stride == (h * w * c, 1, w * c, c)


def _each(value: Any, count: int) -> tuple[int, ...]:
    values = tuple(value) if isinstance(value, (tuple, list)) else (value,)
    return values * count if len(values) == 1 else values


RULES = {"convolution": _forward, "convolution_backward": _backward}
