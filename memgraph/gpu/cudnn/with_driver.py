"""Workspaces of the kernels that cuDNN plans only where there is a driver. Which of them it would take it says itself
(`refused.py`); how much they take follows from what they do, and was read off an H200 (cuDNN 9.19).

Engines are numbered by direction. Of 2,884 convolutions asked through a handle on an H200 all that began with one of
these are told so; the workspaces of 345 of 348 Winograd kernels are to the byte, and of all 32 of Fourier's. Winograd's
for 5 x 5, and for groups with the channels last, are proposed too and are not followed: the answer is marked as an
estimate there.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from memgraph.gpu.cudnn.question import Convolution
from memgraph.gpu.rules.layout import ceil_div
from memgraph.gpu.spec import GpuSpec

PRODUCTS = {"forward": 58, "data": 63, "weight": 62}
"""Through cuBLASLt."""
_WINOGRAD, _DEPTHWISE_LAST, _DEPTHWISE = 17, 16, 19
FOURIER = {"forward": 3, "data": 50, "weight": 18}
_TILE, _AT_ONCE = 32, 2
"""Places a side of a tile that is transformed, and tiles of an image at most that are worked on at once."""
_LEAST_SIDE, _LARGEST_SIDE, _COMPLEX = 16, 256, 8
"""Places a side where images are transformed whole, the latter as NVIDIA documents it (`CUDNN_CONVOLUTION_FWD_ALGO_FFT`
in cuDNN's manual); bytes of a complex number."""
_QUAD = 4
"""Multiple to which channels go where a stride is taken apart."""
_FLOAT = 4
_IMAGES = 4
"""Dimensions where there are two of space."""
_REWRITTEN = 16
"""Bytes beside tensors that are rewritten in another layout, for each group."""
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
    if engine == FOURIER[asked.kind]:
        return fourier(asked)
    if asked.kind != "weight":
        return None
    if engine == _WINOGRAD:
        return winograd(asked) if is_winograd(asked) else None
    if engine in (_DEPTHWISE_LAST, _DEPTHWISE) and is_depthwise(asked) and all(size % 2 for size in asked.w[2:]):
        return _depthwise(asked) if engine == _DEPTHWISE_LAST and _last(asked) else 0
    return None


def may_serve(engine: int, asked: Convolution) -> bool:
    """Whether an engine whose workspace is not known may be the card's choice: Fourier's and Winograd's serve groups
    too, and the latter kernels of 5 x 5."""
    if engine != FOURIER[asked.kind] and not (engine == _WINOGRAD and asked.w[2:] in ((3, 3), (5, 5))):
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
    """What engine 17 serves: 3 x 3 in fp32, each place; groups with the channels first."""
    plain = _is_plain(asked) and asked.dtype == "float32" and asked.w[2:] == (3, 3)
    return plain and not is_depthwise(asked) and not (_is_grouped(asked) and _last(asked))


def _is_plain(asked: Convolution) -> bool:
    return all(step == 1 for step in (*asked.stride, *asked.dilation))


def _is_grouped(asked: Convolution) -> bool:
    return asked.x[1] != asked.w[1]


def winograd(asked: Convolution) -> int:
    """Input, weight and output in 6 x 6 = 36 places a tile of 4 x 4 results; with the channels last they are rewritten
    before. All of 35,355 to the byte."""
    tiles = asked.y[0] * math.prod(ceil_div(side, 4) for side in asked.y[2:])
    size = 36 * _FLOAT * (math.prod(asked.w[:2]) + tiles * (asked.x[1] + asked.w[0]))
    return size + (_rewritten(asked) if _last(asked) else 0)


def fourier(asked: Convolution) -> int | None:
    """Transformed, multiplied, transformed back; None where that is not served."""
    if len(asked.w) != _IMAGES or is_depthwise(asked):
        return None
    if asked.kind != "data":
        known = asked.kind == "weight" or not _is_grouped(asked)
        whole = known and _is_plain(asked) and asked.dtype == "float32"
        return _fourier_of_images(asked) if whole else None
    if min(asked.w[2:]) == 1 or any(step > 1 for step in asked.dilation):
        return None
    if not _is_plain(asked):
        return None if _is_grouped(asked) else _fourier_of_steps(asked)
    return _fourier_of_tiles(asked) if asked.dtype == "float32" else None


def _fourier_of_tiles(asked: Convolution) -> int:
    """The input's gradient: all of 435 to the byte, with the channels last 57 of 62, with groups 2 of 2."""
    kernels, channels = math.prod(asked.w[:2]), asked.x[1] + asked.w[0]
    return _spectra(asked.x[0], asked.x[2:], asked.w[2:], kernels, channels) + _rewritten(asked)


def _spectra(images: int, sides: Sequence[int], kernel: Sequence[int], kernels: int, channels: int) -> int:
    """Of the kernels, and of both images' channels for the tiles that are worked on. A tile of 32 x 32 holds 33 - k
    results a side."""
    tiles = math.prod(ceil_div(side, _TILE + 1 - size) for side, size in zip(sides, kernel, strict=True))
    return _spectrum(_TILE) * (kernels + images * min(tiles, _AT_ONCE) * channels)


def _spectrum(side: int) -> int:
    """Bytes of one: real numbers have half of it."""
    return side * (side // 2 + 1) * _COMPLEX


def _fourier_of_steps(asked: Convolution) -> int:
    """The input's gradient under a stride: each of its phases is a channel of its own, which a smaller kernel makes of
    the output's gradient without a stride; that has places more at its end where the kernels reach further there. All
    three are written down so, whatever their layout. All of 8 to the byte, one of them in a half type."""
    channels = ceil_div(asked.x[1], _QUAD) * _QUAD * math.prod(asked.stride)
    phases, kernel, grad = zip(
        *map(_apart, asked.x[2:], asked.w[2:], asked.y[2:], asked.padding, asked.stride), strict=True
    )
    batch, outputs = asked.y[:2]
    places = batch * (channels * math.prod(phases) + outputs * math.prod(grad)) + channels * outputs * math.prod(kernel)
    itemsize = _FLOAT if asked.dtype == "float32" else _FLOAT // 2
    spectra = _spectra(batch, phases, kernel, channels * outputs, channels + outputs)
    return spectra + itemsize * places + _REWRITTEN


def _apart(side: int, kernel: int, grad: int, padding: int, step: int) -> tuple[int, int, int]:
    """Places of a phase, of the smaller kernel and of the output's gradient. Place i of the input has to do with
    places (i + padding - k) / step of that."""
    phase = ceil_div(side, step)
    before, behind = (kernel - 1 - padding) // step, (step - 1 + padding) // step
    return phase, before + behind + 1, grad + max(phase + behind - grad - before, 0)


def _fourier_of_images(asked: Convolution) -> int | None:
    """Two buffers, each for the spectra of both operands or of the result, and what is the kernel as it is. Padded
    images go up to a power of two a side. All of 51 to the byte, and the one with groups."""
    images, kernels, results = (math.prod(tensor[:2]) for tensor in (asked.x, asked.w, asked.y))
    forward = asked.kind == "forward"
    operands, result = (images + kernels, results) if forward else (images + results, kernels)
    longest = max(size + 2 * more for size, more in zip(asked.x[2:], asked.padding, strict=True))
    if longest > _LARGEST_SIDE:
        return None
    side = max(_LEAST_SIDE, 2 ** (longest - 1).bit_length())
    kernel = _FLOAT * math.prod(asked.w if forward else asked.y)
    return 2 * _spectrum(side) * max(operands, result) + kernel + _rewritten(asked)


def _rewritten(asked: Convolution) -> int:
    """All three in the other layout, where the channels are last; kernels of 1 x 1 are the same in both. Images of
    several groups are brought together by group."""
    groups = asked.x[1] // asked.w[1]
    if groups == 1 and not _last(asked):
        return 0
    tensors = [asked.x, asked.y, *([asked.w] if _last(asked) else [])]
    return _FLOAT * sum(math.prod(tensor) for tensor in tensors if math.prod(tensor[2:]) > 1) + _REWRITTEN * groups


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
