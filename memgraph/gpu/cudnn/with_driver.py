"""Workspaces of the kernels that cuDNN plans only where there is a driver. Which of them it would take it says itself
(`refused.py`); how much they take follows from what they do, and was read off an H200 (cuDNN 9.19).

Engines are numbered by direction. Of 14,161 convolutions asked through a handle on an H200, 1,350 began with one of
these by what is written here, and so did 1,349 on the card; the workspaces of all 794 Winograd kernels and of all 19
for depthwise ones are to the byte. Fourier's kernels of the weight's gradient (18) and forward (3), and Winograd's for
5 x 5 are proposed too, and are not followed: the answer is marked as an estimate there.
"""

from __future__ import annotations

import math

from memgraph.gpu.cudnn.question import Convolution
from memgraph.gpu.rules.layout import ceil_div
from memgraph.gpu.spec import GpuSpec

PRODUCTS = {"forward": 58, "data": 63, "weight": 62}
"""Through cuBLASLt."""
_WINOGRAD, _DEPTHWISE_LAST, _DEPTHWISE = 17, 16, 19
_FOURIER = {"forward": 3, "data": 50, "weight": 18}
_TILE, _AT_ONCE = 32, 2
"""Places a side of a tile that is transformed, and tiles of an image at most that are worked on at once."""
_SPECTRUM = _TILE * (_TILE // 2 + 1) * 8
"""Bytes of a tile's spectrum: real numbers have half of one, in complex fp32."""
_FLOAT = 4
_REWRITTEN = 16
"""Bytes beside tensors that are rewritten in another layout."""
_PARTS = {4: (128, 128, 96, 256), 2: (64, 128, 1280, 272)}
"""By bytes of an element: rows and columns of a tile of a split product, elements of the reduction that a part has at
least, bytes of flags beside the parts."""
_FEWEST, _ROUNDS, _COLUMNS = 3, 2, 32
"""Parts of a split product at least, rounds of its tiles over the card at most, multiple to which its columns go."""
_SUMS, _CHANNELS = 8, 32
"""Sums for each image of a depthwise weight gradient, multiple to which its channels go."""


def workspace(engine: int, asked: Convolution, gpu: GpuSpec) -> int | None:
    """Bytes; None where the engine does not serve such a convolution, or its workspace is not known."""
    if engine == PRODUCTS[asked.kind]:
        return product(asked, gpu) if is_product(asked) else None
    if asked.kind == "data" and engine == _FOURIER["data"]:
        return fourier(asked) if _is_whole(asked) and asked.dtype == "float32" else None
    if asked.kind != "weight":
        return None
    if engine == _WINOGRAD:
        return winograd(asked) if is_winograd(asked) else None
    if engine in (_DEPTHWISE_LAST, _DEPTHWISE) and is_depthwise(asked):
        return _depthwise(asked) if engine == _DEPTHWISE_LAST and _last(asked) else 0
    return None


def may_serve(engine: int, asked: Convolution) -> bool:
    """Whether an engine whose workspace is not known may be the card's choice."""
    if engine != _FOURIER[asked.kind] and not (engine == _WINOGRAD and asked.w[2:] == (5, 5)):
        return False
    plain = all(step == 1 for step in (*asked.stride, *asked.dilation)) and math.prod(asked.w[2:]) > 1
    return plain and asked.dtype == "float32" and not is_depthwise(asked)


def is_product(asked: Convolution) -> bool:
    """A kernel of 1 x 1, without stride, padding and groups."""
    pointwise = all(size == 1 for size in asked.w[2:]) and all(step == 1 for step in asked.stride)
    return pointwise and not any(asked.padding) and asked.x[1] == asked.w[1]


def is_depthwise(asked: Convolution) -> bool:
    """A channel by itself."""
    return asked.w[1] == 1 and asked.x[1] > 1


def is_winograd(asked: Convolution) -> bool:
    """What engine 17 serves: 3 x 3 in fp32, each place and channel."""
    return _is_whole(asked) and asked.dtype == "float32" and asked.w[2:] == (3, 3)


def _is_whole(asked: Convolution) -> bool:
    return asked.x[1] == asked.w[1] and all(step == 1 for step in (*asked.stride, *asked.dilation))


def winograd(asked: Convolution) -> int:
    """Input, weight and output in 6 x 6 = 36 places a tile of 4 x 4 results; with the channels last they are rewritten
    before. All of 35,355 to the byte."""
    (outputs, inputs), (height, width) = asked.w[:2], asked.y[2:]
    tiles = asked.y[0] * math.ceil(height / 4) * math.ceil(width / 4)
    size = 36 * _FLOAT * (inputs * outputs + tiles * (inputs + outputs))
    return size + _rewritten(asked)


def fourier(asked: Convolution) -> int:
    """The input's gradient: spectra of the kernels, and of both images' channels for the tiles that are worked on. A
    tile of 32 x 32 holds 33 - k results a side. All of 435 to the byte, with the channels last 57 of 62."""
    (outputs, inputs), kernel = asked.w[:2], asked.w[2:]
    sides = zip(asked.x[2:], kernel, strict=True)
    tiles = math.prod(ceil_div(side, _TILE + 1 - size) for side, size in sides)
    images = asked.x[0] * min(tiles, _AT_ONCE)
    return _SPECTRUM * (inputs * outputs + images * (inputs + outputs)) + _rewritten(asked)


def _rewritten(asked: Convolution) -> int:
    """All three in the other layout, where the channels are last."""
    return _FLOAT * sum(map(math.prod, (asked.x, asked.w, asked.y))) + _REWRITTEN if _last(asked) else 0


def product(asked: Convolution, gpu: GpuSpec) -> int:
    """Nothing (or 272 to 400 bytes of flags, which are left out), but for the weight's gradient: with the channels
    first, one fp32 product for each image, summed afterwards; with the channels last one product, whose reduction over
    all places is cut into parts, which meet in fp32."""
    if asked.kind != "weight":
        return 0
    if not _last(asked):
        return asked.x[0] * math.prod(asked.w) * _FLOAT
    rows, columns, least, flags = _PARTS[4 if asked.dtype == "float32" else 2]
    outputs, inputs = asked.w[:2]
    tiles = ceil_div(outputs, rows) * ceil_div(inputs, columns)
    parts = min(asked.x[0] * math.prod(asked.x[2:]) // least, _ROUNDS * gpu.sms // tiles)
    return parts * outputs * _FLOAT * ceil_div(inputs, _COLUMNS) * _COLUMNS + flags if parts >= _FEWEST else 0


def _depthwise(asked: Convolution) -> int:
    """Eight fp32 sums for each image, the channels filled up to a warp's."""
    channels = ceil_div(asked.w[0], _CHANNELS) * _CHANNELS
    return _SUMS * asked.x[0] * channels * math.prod(asked.w[2:]) * _FLOAT


def _last(asked: Convolution) -> bool:
    return asked.x_stride[1] == 1
