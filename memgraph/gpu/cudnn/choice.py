"""What PyTorch takes for a convolution: the first configuration that cuDNN proposes and its own filters let through
(aten/src/ATen/native/cudnn/Conv_v8.cpp, `get_generator_sources`, `filterEngineConfigs`, `try_configs`).

Measured: in 468 of 471 convolutions recorded on an H200, in 2,154 of 2,154 with 1 x 1 kernels, and in 60 of 60 on an
H100, the workspace that PyTorch allocated is that of the first configuration through a handle. Asked without a card,
378 of 385 others are its to the byte.

Three kinds of kernels answer only where there is a driver, and are known from those recordings instead: matrix
products through cuBLASLt, which serve 1 x 1 kernels without stride and padding (2,001 of 2,154 of them; engines 58,
62 and 63), the kernels for depthwise convolutions, and without TF32 those that work on transformed tiles: Winograd's
for the weight's gradient, and Fourier's, which are not followed. cuBLASLt would not tell: it makes no handle without
a driver, and through one its first proposal for the same product has another workspace in 1,076 of 1,969. What is
written here gives 1,335 of 2,095 to the byte, of weight gradients with the channels last 197 of 280 in half types and
48 of 148 in fp32; of 567 that it was not read off, 281, and of 5,369 such weight gradients on a grid 2,586 (254 by
the rule before). Sizes alone do not tell: of 892 products asked in images of two sizes 125 have two workspaces.
"""

from __future__ import annotations

import math
from typing import NamedTuple

from memgraph.gpu.cudnn.ask import Asker, asker
from memgraph.gpu.cudnn.question import Convolution
from memgraph.gpu.cudnn.splits import with_clusters
from memgraph.gpu.rules.layout import ceil_div
from memgraph.gpu.spec import GpuSpec

_TENSOR_CORE, _DOWN_CONVERT, _NONDETERMINISTIC = 0, 1, 4
"""`cudnnBackendNumericalNote_t`."""
_FLOAT = 4
_PARTS = {4: (128, 128, 96, 256), 2: (64, 128, 1280, 272)}
"""By bytes of an element: rows and columns of a tile of a split product, elements of the reduction that a part has at
least, bytes of flags beside the parts."""
_FEWEST, _ROUNDS, _COLUMNS = 3, 2, 32
"""Parts of a split product at least, rounds of its tiles over the card at most, multiple to which its columns go."""
_NARROW, _GIB = 16, 2**30
_REWRITTEN = 16
"""Bytes beside tensors that are rewritten in another layout."""
_TRIED = 24
"""Configurations asked for when the first cannot be had."""


class Settings(NamedTuple):
    """`torch.backends.cudnn`, as far as it decides."""

    tf32: bool = True
    deterministic: bool = False


class Without(NamedTuple):
    """cuDNN has a kernel without a workspace for nearly every convolution, further down its list."""

    def sizes(self) -> tuple[int, ...]:
        """Nothing."""
        return (0,)


class Others(NamedTuple):
    """The configurations after the first. PyTorch tries them when the allocator refuses (`try_configs`)."""

    asked: Convolution
    gpu: GpuSpec
    settings: Settings

    def sizes(self) -> tuple[int, ...]:
        """Their workspaces."""
        library = asker()
        return () if library is None else alternatives(library, *self, _TRIED)[1:]


class Choice(NamedTuple):
    """What cuDNN is given."""

    workspace: int
    """Bytes."""
    asked: bool
    """Whether cuDNN said so; if not, it is a rule's word for a kernel that does not answer without a driver."""
    smaller: Others | Without


def choose(asker: Asker, asked: Convolution, gpu: GpuSpec, settings: Settings) -> Choice | None:
    """The workspace of one convolution on a card; None if cuDNN proposes nothing."""
    if _is_product(asked, settings):
        return Choice(_product(asked, gpu), False, Without())
    if _is_depthwise(asked):
        size = _depthwise(asked)
        if size is not None:
            return Choice(size, False, Without())
    if _is_winograd(asked, settings):
        return Choice(_winograd(asked), False, Others(asked, gpu, settings))
    sizes = alternatives(asker, asked, gpu, settings, 1)
    return Choice(sizes[0], True, Others(asked, gpu, settings)) if sizes else None


def alternatives(asker: Asker, asked: Convolution, gpu: GpuSpec, settings: Settings, most: int) -> tuple[int, ...]:
    """Workspaces of the configurations in the order in which PyTorch tries them."""
    found = asker.configs(asked, gpu, _filtered(asked.dtype, settings), most)
    return tuple(with_clusters(config, asked, gpu.clusters).workspace for config in found)


def _filtered(dtype: str, settings: Settings) -> tuple[int, ...]:
    """`filterEngineConfigs`."""
    notes = [_NONDETERMINISTIC] if settings.deterministic else []
    if dtype == "float32":
        notes += [_DOWN_CONVERT] if settings.tf32 else [_DOWN_CONVERT, _TENSOR_CORE]
    return tuple(notes)


def _is_product(asked: Convolution, settings: Settings) -> bool:
    """Where an image is not a multiple of 16 bytes, only half types' input and output are taken as they are: seen in
    10 of 10 recordings, and in 2 of 8 of the others."""
    pointwise = all(size == 1 for size in asked.w[2:]) and all(step == 1 for step in asked.stride)
    if not pointwise or any(asked.padding) or asked.x[1] != asked.w[1] or (_plain(asked) and not settings.tf32):
        return False
    image = math.prod(asked.x[2:]) * (4 if _plain(asked) else 2)
    return asked.x_stride[1] == 1 or image % 16 == 0 or (asked.kind != "weight" and not _plain(asked))


def _plain(asked: Convolution) -> bool:
    return asked.dtype == "float32"


def _is_depthwise(asked: Convolution) -> bool:
    return asked.w[1] == 1 and asked.x[1] > 1


def _depthwise(asked: Convolution) -> int | None:
    """Nothing, but for the weight's gradient in a half type with the channels last: eight fp32 sums for each image,
    seen for 3, 5 and 7 places a side in 10 of 11 recordings, and not for images smaller than the kernel (ConvNeXt's of
    3 x 3 and 6 x 6 under 7 x 7, recorded on an H200); None where cuDNN's answer holds."""
    if asked.kind != "weight" or any(side < size for side, size in zip(asked.x[2:], asked.w[2:], strict=True)):
        return 0
    odd = all(size % 2 for size in asked.w[2:]) and math.prod(asked.w[2:]) > 1
    if asked.dtype == "float32" or asked.x_stride[1] != 1 or not odd:
        return None
    return 8 * asked.x[0] * math.prod(asked.w) * _FLOAT


def _is_winograd(asked: Convolution, settings: Settings) -> bool:
    """cuDNN's engine 17, seen for 8 of 11 weight gradients of 3 x 3 kernels without a stride in fp32 without TF32; not
    for one image, for 16 channels on both sides, and where it would take more than 1 GiB."""
    if asked.kind != "weight" or not _plain(asked) or settings.tf32 or asked.w[2:] != (3, 3) or asked.x[0] == 1:
        return False
    steps = (*asked.stride, *asked.dilation)
    if any(step != 1 for step in steps) or asked.x[1] != asked.w[1] or max(asked.w[:2]) <= _NARROW:
        return False
    return _winograd(asked) <= _GIB


def _winograd(asked: Convolution) -> int:
    """Input, weight and output in 6 x 6 = 36 places a tile of 4 x 4 results; with the channels last they are rewritten
    before. All eight to the byte."""
    (outputs, inputs), (height, width) = asked.w[:2], asked.y[2:]
    tiles = asked.y[0] * math.ceil(height / 4) * math.ceil(width / 4)
    size = 36 * _FLOAT * (inputs * outputs + tiles * (inputs + outputs))
    if asked.x_stride[1] != 1:
        return size
    return size + _FLOAT * sum(map(math.prod, (asked.x, asked.w, asked.y))) + _REWRITTEN


def _product(asked: Convolution, gpu: GpuSpec) -> int:
    """Nothing (or 272 to 400 bytes of flags, which are left out), but for the weight's gradient: with the channels
    first, one fp32 product for each image, summed afterwards; with the channels last one product, whose reduction over
    all places is cut into parts, which meet in fp32."""
    if asked.kind != "weight":
        return 0
    if asked.x_stride[1] != 1:
        return asked.x[0] * math.prod(asked.w) * _FLOAT
    rows, columns, least, flags = _PARTS[4 if _plain(asked) else 2]
    outputs, inputs = asked.w[:2]
    tiles = ceil_div(outputs, rows) * ceil_div(inputs, columns)
    parts = min(asked.x[0] * math.prod(asked.x[2:]) // least, _ROUNDS * gpu.sms // tiles)
    return parts * outputs * _FLOAT * ceil_div(inputs, _COLUMNS) * _COLUMNS + flags if parts >= _FEWEST else 0
