"""Convolutions through cuDNN: layout changes, and what its kernels need.

PyTorch's part (aten/src/ATen/native/Convolution.cpp, cudnn/Conv_v8.cpp) is exact: contiguous copies in the layout of
the input, outputs, one workspace a cuDNN call, the bias gradient as an ordinary sum. cuDNN's part is its own choice of
kernels. What was seen on an H200 with cuDNN 9.19 (`tests/data/ops_h200_convolution.json.gz`, nanoVLM's recordings, and
the resnet, unet and gru of `benchmarks/recordings/workloads`):
- kernels work on NHWC, so NCHW input, weight and output are rewritten, channels padded to 8 in half types and to 4 in
  fp32, plus 16 bytes (or 147);
- 1 x 1 kernels without a stride are plain matrix products: nothing, and the weight's gradient is one fp32 product for
  each image, summed afterwards; where an image is not a multiple of 16 bytes, input and output are rewritten;
- 1 x 1 kernels with a stride rewrite input and output, and not the weight;
- a weight gradient over many positions is split, with fp32 partial sums. How often is a choice: the split that was seen
  for a width is taken.
Everything but the patch embeddings of three channels is marked as an estimate, and so listed in the result.

Where cuDNN itself is installed it is asked instead (`memgraph.gpu.cudnn`), for any card.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple

from memgraph.gpu.call import Call, Steps, TensorMeta
from memgraph.gpu.cudnn.ask import asker
from memgraph.gpu.cudnn.choice import Choice, Settings, Without, choose
from memgraph.gpu.cudnn.question import DTYPES, question
from memgraph.gpu.rules.layout import Plan, ceil_div, permuted
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
_FEW_POSITIONS = 500
"""Output positions up to which fp32 takes a patch embedding's weight gradient from NCHW as it is; measured to change
between 196 and 1,024."""
_MANY_IMAGES = 48
"""Images from which on fp32 rewrites a patch embedding's forward; measured to change between 32 and 64 of 224 pixels,
and not to have changed at 16 of 512."""
_SPLIT_COPIES = 6
"""Three fp32 partial sums, in units of the half-type weight."""
_SPLIT_ALIGNMENT = 128
_FLOAT_ALIGNMENTS = ((300, 128), (1 << 62, 320))
"""Bytes beside the rewritten tensors of a weight gradient in fp32, by the pixels of a side; measured at 224, 384 and
512."""
_LARGE_IMAGE = 512
"""Pixels a side from which a bf16 patch embedding's forward takes NCHW as it is; measured at 512, not at 384."""
_FLOAT = 4
_IMAGE = 3
"""Channels of an image."""
_SMALL_KERNEL = 9
"""Places of a kernel up to which an image's channels are taken as they are; seen for 3 x 3, not for 7 x 7."""
_NARROW = 80
"""Channels up to which fp32 writes the result in place; seen for 64 and 80, not for 128."""
_HALF_SPLITS = ((4, 60), (64, 13), (128, 4))
_FLOAT_SPLITS = ((4, 120), (128, 14), (256, 3))
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

        self.flat = all(size == 1 for size in self.kernel)
        places = math.prod(source.shape[2:]) * source.itemsize
        self.plain_product = self.pointwise and groups == 1 and (self.last or places % 16 == 0)
        self.aligned = source.shape[1] % (8 if self.half else 4) == 0

    def lay_out(self, plan: Plan, tensor: TensorMeta, name: str) -> int:
        """The copy that cuDNN's layout needs of a tensor, if it needs one: all are in one layout
        (`cudnn_conv_suggest_memory_format`, aten/src/ATen/native/ConvUtils.h)."""
        if self.last:
            return -1 if _is_last(tensor) else plan.temporary(tensor.nbytes, name)
        return plan.contiguous(tensor, name)

    @property
    def own_kernel(self) -> bool:
        """PyTorch's own depthwise kernels, which need nothing."""
        return self.depthwise and not self.last and len(self.kernel) == 2


class _Geometry(NamedTuple):
    """What cuDNN is told of a convolution."""

    source: TensorMeta
    weight: TensorMeta
    out: TensorMeta
    steps: tuple[Any, ...]
    """Stride, padding, dilation."""
    shape: _Shape
    settings: Settings

    def ask(self, kind: str, gpu: GpuSpec) -> Choice | None:
        """Its choice for the result (`forward`), or for the gradient of the input (`data`) or of the weight; None
        where it is not installed, or not called."""
        library = None if self.shape.own_kernel or self.source.dtype not in DTYPES else asker()
        if library is None or not all(tensor.numel for tensor in (self.source, self.weight, self.out)):
            return None
        x, y = self.source, self.out
        if self.shape.transposed:  # its result is the gradient of the convolution that it undoes
            x, y, kind = y, x, {"forward": "data", "data": "forward"}.get(kind, kind)
        stride, padding, dilation = (_each(numbers, len(self.weight.shape) - 2) for numbers in self.steps)
        asked = question(kind, x, self.weight, y, stride, padding, dilation, self.shape.last)
        return choose(library, asked, gpu, self.settings)


def _settings(call: Call) -> Settings:
    """`torch.backends.cudnn` at the call, which `aten::_convolution` is given as arguments."""
    return Settings(call.kwargs.get("allow_tf32", True), call.kwargs.get("deterministic", False))


def _forward(call: Call, gpu: GpuSpec, version: Version) -> Steps:
    """`convolution(input, weight, bias, stride, padding, dilation, transposed, output_padding, groups)`."""
    source, weight = call.args[0], call.args[1]
    shape = _Shape(source, weight, call.args[3], call.args[8], call.args[6])
    plan = Plan(call)
    shape.lay_out(plan, source, "contiguous input")
    shape.lay_out(plan, weight, "contiguous weight")
    plan.output(0)
    out = call.outputs[0] if call.outputs else source
    geometry = _Geometry(source, weight, out, call.args[3:6], shape, _settings(call))
    asked = geometry.ask("forward", gpu)
    _take(plan, shape, gpu, asked, _forward_workspace(shape, out))
    return plan.steps()


def _forward_workspace(shape: _Shape, out: TensorMeta) -> int:
    if shape.own_kernel or shape.plain_product:
        return 0
    if shape.last:
        return 0 if shape.aligned else _source(shape) + _weight(shape) + _TRANSFORM
    if shape.patches and not shape.pointwise:
        return _patches_workspace(shape, out)
    if shape.flat:
        rest = out.nbytes if shape.half or shape.pointwise else shape.weight.nbytes
        return shape.source.nbytes + rest + _TRANSFORM
    return _filter_workspace(shape, out)


def _patches_workspace(shape: _Shape, out: TensorMeta) -> int:
    """A kernel that steps by its own size: fp32, unless there are many images, and bf16 on large ones take NCHW as it
    is."""
    large = shape.source.dtype == "bfloat16" and min(shape.source.shape[2:]) >= _LARGE_IMAGE
    as_it_is = large if shape.half else shape.source.shape[0] < _MANY_IMAGES
    return 0 if as_it_is else _rewritten(shape, out) + _TRANSFORM


def _filter_workspace(shape: _Shape, out: TensorMeta) -> int:
    """A kernel with an extent: few or odd channels are taken as they are; fp32 writes a narrow result in place."""
    channels = shape.source.shape[1]
    if channels % 2 and (channels != _IMAGE or math.prod(shape.kernel) <= _SMALL_KERNEL):
        return 0
    if shape.half:
        return _rewritten(shape, out) + _TRANSFORM
    narrow = _IMAGE < channels <= _NARROW
    return shape.source.nbytes + shape.weight.nbytes + (0 if narrow else out.nbytes) + _TRANSFORM


def _rewritten(shape: _Shape, out: TensorMeta) -> int:
    """Input, weight and output in NHWC, channels padded to 8 in half types and to 4 in fp32."""
    batch, channels, *space = out.shape
    return _source(shape) + _weight(shape) + batch * _padded(channels, shape) * math.prod(space) * out.itemsize


def _source(shape: _Shape) -> int:
    batch, channels, *space = shape.source.shape
    return batch * _padded(channels, shape) * math.prod(space) * shape.source.itemsize


def _weight(shape: _Shape) -> int:
    rows, channels = (shape.weight.shape[0], shape.weight.shape[1])
    channels = channels if shape.groups > 1 else _padded(channels, shape)
    return _padded(rows, shape) * channels * math.prod(shape.kernel) * shape.weight.itemsize


def _padded(channels: int, shape: _Shape) -> int:
    step = 8 if shape.half else 4
    return ceil_div(channels, step) * step


def _backward(call: Call, gpu: GpuSpec, version: Version) -> Steps:
    """`convolution_backward(grad, input, weight, bias_sizes, stride, padding, dilation, transposed, output_padding,
    groups, output_mask)`: the input's gradient, the weight's, the bias's, each with its own temporaries."""
    grad, source, weight = call.args[0], call.args[1], call.args[2]
    wants_input, wants_weight, wants_bias = call.args[10]
    shape = _Shape(source, weight, call.args[4], call.args[9], call.args[7])
    plan = Plan(call)
    copy = shape.lay_out(plan, grad, "contiguous gradient")
    shape.lay_out(plan, source, "contiguous input")
    shape.lay_out(plan, weight, "contiguous weight")
    geometry = _Geometry(source, weight, grad, call.args[4:7], shape, _settings(call))
    gradients = _gradients(wants_input, wants_weight)
    for index, kind, otherwise in reversed(gradients) if shape.own_kernel else gradients:
        plan.output(index)
        asked = geometry.ask(kind, gpu)
        plan.release(_take(plan, shape, gpu, asked, otherwise(shape, grad)))
    plan.release(copy)  # it is cuDNN's call that makes it (`cudnn_convolution_backward`), and recorded runs show it
    if wants_bias:
        plan.output(len(gradients))
        sum_scratch(plan, grad, (0, *range(2, len(grad.shape))), False, gpu)
    return plan.steps()


def _gradients(wants_input: bool, wants_weight: bool) -> list[_Gradient]:
    """Those asked for, in cuDNN's order; PyTorch's own depthwise kernels take the weight's first
    (`conv_depthwise2d_backward_cuda_out`, aten/src/ATen/native/cuda/DepthwiseConv2d.cu)."""
    gradients = [_Gradient(0, "data", _input_gradient_workspace)] if wants_input else []
    if wants_weight:
        gradients.append(_Gradient(len(gradients), "weight", _weight_gradient_workspace))
    return gradients


class _Gradient(NamedTuple):
    """A gradient that `convolution_backward` returns."""

    output: int
    kind: str
    otherwise: Callable[[_Shape, TensorMeta], int]
    """The workspace where cuDNN is not asked."""


def _input_gradient_workspace(shape: _Shape, grad: TensorMeta) -> int:
    if shape.own_kernel or shape.last or shape.plain_product or (shape.groups > 1 and not shape.half):
        return 0
    if shape.flat:
        return shape.source.nbytes + grad.nbytes + _TRANSFORM
    return _rewritten(shape, grad) + _TRANSFORM


def _weight_gradient_workspace(shape: _Shape, grad: TensorMeta) -> int:
    if shape.own_kernel or shape.groups > 1:
        return 0
    if shape.plain_product and not shape.last:
        return grad.shape[0] * shape.weight.numel * _FLOAT
    if shape.patches and not shape.pointwise:
        return 0 if shape.last else _patches_gradient_workspace(shape, grad)
    partial = _splits(shape) * _weight(shape) // shape.weight.itemsize * _FLOAT
    if shape.last:
        return partial
    if shape.flat:
        return shape.source.nbytes + grad.nbytes + _TRANSFORM + (0 if shape.pointwise else partial)
    return _rewritten(shape, grad) + _TRANSFORM + partial


def _patches_gradient_workspace(shape: _Shape, grad: TensorMeta) -> int:
    positions = grad.shape[0] * math.prod(grad.shape[2:])
    if not shape.half:
        side = min(shape.source.shape[2:])
        beside = next(size for most, size in _FLOAT_ALIGNMENTS if side <= most)
        return 0 if positions <= _FEW_POSITIONS else _rewritten(shape, grad) + _TRANSFORM + beside
    if positions > _SPLIT_POSITIONS:
        return _rewritten(shape, grad) + _SPLIT_COPIES * _weight(shape) + _SPLIT_ALIGNMENT + _TRANSFORM
    single = _SPLIT_ALIGNMENT if grad.shape[0] == 1 else 0  # seen for one image of 224 pixels
    return _rewritten(shape, grad) + _TRANSFORM + single


def _splits(shape: _Shape) -> int:
    """Partial sums of a weight gradient, as seen for the narrower side of the weight: 58 to 120 for an image's
    channels, 13 and 14 up to 64, 4 (half) and 14 (fp32) up to 128, 0 and 3 up to 256."""
    width = min(shape.weight.shape[:2])
    limits = _HALF_SPLITS if shape.half else _FLOAT_SPLITS
    return next((splits for most, splits in limits if width <= most), 0)


def _take(plan: Plan, shape: _Shape, gpu: GpuSpec, asked: Choice | None, otherwise: int) -> int:
    """The workspace, or less where it cannot be had."""
    name = _name(shape, gpu, asked)
    if asked is None:
        return plan.temporary(otherwise, name, Without())
    return plan.temporary(asked.workspace, name, asked.smaller)


def _name(shape: _Shape, gpu: GpuSpec, asked: Choice | None) -> str:
    """Whether cuDNN said so, or it was measured for such a call: a patch embedding of three channels on Hopper."""
    if asked is not None:
        return _MEASURED if asked.asked else _ESTIMATE
    measured = shape.patches and shape.source.shape[1] == 3 and gpu.capability == (9, 0) and not shape.last
    return _MEASURED if measured or shape.own_kernel else _ESTIMATE


def _channels_last(tensor: TensorMeta) -> bool:
    """Whether it is laid out NHWC or NDHWC (and not, trivially, NCHW as well)."""
    return not tensor.is_contiguous and _is_last(tensor)


def _is_last(tensor: TensorMeta) -> bool:
    """`is_contiguous(memory_format=channels_last)`: dimensions of one element do not matter."""
    if len(tensor.shape) not in (4, 5):
        return False
    order = (0, *range(2, len(tensor.shape)), 1)
    return permuted(tensor, order).is_contiguous


def _each(value: Any, count: int) -> tuple[int, ...]:
    values = tuple(value) if isinstance(value, (tuple, list)) else (value,)
    return values * count if len(values) == 1 else values


RULES = {"convolution": _forward, "convolution_backward": _backward}
