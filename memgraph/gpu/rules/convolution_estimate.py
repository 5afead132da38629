"""What cuDNN takes for a convolution where it is not installed and cannot be asked: the workspaces that were seen on an
H200 with cuDNN 9.19 (`tests/data/ops_h200_convolution.json.gz`, nanoVLM's recordings, and the resnet, unet and gru of
`benchmarks/recordings/workloads`):
- kernels work on NHWC, so NCHW input, weight and output are rewritten, channels padded to 8 in half types and to 4 in
  fp32, plus 16 bytes (or 147);
- 1 x 1 kernels without a stride are plain matrix products: nothing, and the weight's gradient is one fp32 product for
  each image, summed afterwards; where an image is not a multiple of 16 bytes, input and output are rewritten;
- 1 x 1 kernels with a stride rewrite input and output, and not the weight;
- a weight gradient over many positions is split, with fp32 partial sums. How often is a choice: the split that was seen
  for a width is taken.
"""

from __future__ import annotations

import math
from typing import Any

from memgraph.gpu.call import TensorMeta
from memgraph.gpu.rules.layout import ceil_div

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


class Shape:
    """The parts of a convolution that decide.

    Args:
        last: whether it is done with the channels innermost.
    """

    def __init__(
        self, source: TensorMeta, weight: TensorMeta, stride: Any, groups: int, transposed: bool, last: bool
    ) -> None:
        self.source = source
        self.weight = weight
        self.groups = groups
        self.transposed = transposed
        self.last = last
        self.kernel = weight.shape[2:]
        steps = each(stride, len(self.kernel))
        self.patches = all(size == step for size, step in zip(self.kernel, steps, strict=True))
        self.flat = all(size == 1 for size in self.kernel)
        self.pointwise = self.flat and all(step == 1 for step in steps)
        self.half = source.dtype in _HALF
        self.depthwise = groups == source.shape[1] and groups > 1 and weight.shape[0] % source.shape[1] == 0
        places = math.prod(source.shape[2:]) * source.itemsize
        self.plain_product = self.pointwise and groups == 1 and (self.last or places % 16 == 0)
        self.aligned = source.shape[1] % (8 if self.half else 4) == 0

    @property
    def own_kernel(self) -> bool:
        """PyTorch's own depthwise kernels, which need nothing."""
        return self.depthwise and not self.last and len(self.kernel) <= 2


def each(value: Any, count: int) -> tuple[int, ...]:
    """One number for each dimension of space, where one may stand for all."""
    values = tuple(value) if isinstance(value, (tuple, list)) else (value,)
    return values * count if len(values) == 1 else values


def forward_workspace(shape: Shape, out: TensorMeta) -> int:
    """Bytes for the result."""
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


def _patches_workspace(shape: Shape, out: TensorMeta) -> int:
    """A kernel that steps by its own size: fp32, unless there are many images, and bf16 on large ones take NCHW as it
    is."""
    large = shape.source.dtype == "bfloat16" and min(shape.source.shape[2:]) >= _LARGE_IMAGE
    as_it_is = large if shape.half else shape.source.shape[0] < _MANY_IMAGES
    return 0 if as_it_is else _rewritten(shape, out) + _TRANSFORM


def _filter_workspace(shape: Shape, out: TensorMeta) -> int:
    """A kernel with an extent: few or odd channels are taken as they are; fp32 writes a narrow result in place."""
    channels = shape.source.shape[1]
    if channels % 2 and (channels != _IMAGE or math.prod(shape.kernel) <= _SMALL_KERNEL):
        return 0
    if shape.half:
        return _rewritten(shape, out) + _TRANSFORM
    narrow = _IMAGE < channels <= _NARROW
    return shape.source.nbytes + shape.weight.nbytes + (0 if narrow else out.nbytes) + _TRANSFORM


def _rewritten(shape: Shape, out: TensorMeta) -> int:
    """Input, weight and output in NHWC, channels padded to 8 in half types and to 4 in fp32."""
    batch, channels, *space = out.shape
    return _source(shape) + _weight(shape) + batch * _padded(channels, shape) * math.prod(space) * out.itemsize


def _source(shape: Shape) -> int:
    batch, channels, *space = shape.source.shape
    return batch * _padded(channels, shape) * math.prod(space) * shape.source.itemsize


def _weight(shape: Shape) -> int:
    rows, channels = (shape.weight.shape[0], shape.weight.shape[1])
    channels = channels if shape.groups > 1 else _padded(channels, shape)
    return _padded(rows, shape) * channels * math.prod(shape.kernel) * shape.weight.itemsize


def _padded(channels: int, shape: Shape) -> int:
    step = 8 if shape.half else 4
    return ceil_div(channels, step) * step


def input_gradient_workspace(shape: Shape, grad: TensorMeta) -> int:
    """Bytes for the gradient of the input."""
    if shape.own_kernel or shape.last or shape.plain_product or (shape.groups > 1 and not shape.half):
        return 0
    if shape.flat:
        return shape.source.nbytes + grad.nbytes + _TRANSFORM
    return _rewritten(shape, grad) + _TRANSFORM


def weight_gradient_workspace(shape: Shape, grad: TensorMeta) -> int:
    """Bytes for the gradient of the weight."""
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


def _patches_gradient_workspace(shape: Shape, grad: TensorMeta) -> int:
    positions = grad.shape[0] * math.prod(grad.shape[2:])
    if not shape.half:
        side = min(shape.source.shape[2:])
        beside = next(size for most, size in _FLOAT_ALIGNMENTS if side <= most)
        return 0 if positions <= _FEW_POSITIONS else _rewritten(shape, grad) + _TRANSFORM + beside
    if positions > _SPLIT_POSITIONS:
        return _rewritten(shape, grad) + _SPLIT_COPIES * _weight(shape) + _SPLIT_ALIGNMENT + _TRANSFORM
    single = _SPLIT_ALIGNMENT if grad.shape[0] == 1 else 0  # seen for one image of 224 pixels
    return _rewritten(shape, grad) + _TRANSFORM + single


def _splits(shape: Shape) -> int:
    """Partial sums of a weight gradient, as seen for the narrower side of the weight: 58 to 120 for an image's
    channels, 13 and 14 up to 64, 4 (half) and 14 (fp32) up to 128, 0 and 3 up to 256."""
    width = min(shape.weight.shape[:2])
    limits = _HALF_SPLITS if shape.half else _FLOAT_SPLITS
    return next((splits for most, splits in limits if width <= most), 0)
