"""What cuDNN is asked about a convolution, and what it answers. Plain data."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from memgraph.gpu.call import TensorMeta

DTYPES = frozenset(("float32", "float64", "float16", "bfloat16"))


class Config(NamedTuple):
    """One configuration that the heuristics propose."""

    engine: int
    knobs: tuple[tuple[int, int], ...]
    """Number of the knob (`cudnnBackendKnobType_t`) and its setting."""
    notes: tuple[int, ...]
    workspace: int
    """Bytes of its plan; -1 where no plan can be made of it."""
    refused: tuple[int, ...] | None = None
    """Engines that were proposed before it and left out (`refused.py`); told of the first alone, and None where the
    library does not say."""


class Convolution(NamedTuple):
    """A convolution as cuDNN is told of it. Shapes and strides in elements."""

    kind: str
    """`forward`, `data` or `weight`: which of the three is computed from the other two."""
    x: tuple[int, ...]
    x_stride: tuple[int, ...]
    w: tuple[int, ...]
    w_stride: tuple[int, ...]
    y: tuple[int, ...]
    y_stride: tuple[int, ...]
    dtype: str
    padding: tuple[int, ...]
    stride: tuple[int, ...]
    dilation: tuple[int, ...]


def question(
    kind: str, x: TensorMeta, w: TensorMeta, y: TensorMeta, stride: Sequence[int], padding: Sequence[int],
    dilation: Sequence[int], channels_last: bool,
) -> Convolution:  # fmt: skip
    """A convolution of PyTorch's as it tells cuDNN of it: dense, in one layout, and with one dimension of space as
    with two (`view1d_as_2d` of aten/src/ATen/native/Convolution.cpp).

    Args:
        x: input, (batch, channels, *space).
        w: weight, (channels out, channels in a group, *kernel).
        y: output. For a transposed convolution x and y change places.
    """
    x_shape, w_shape, y_shape = (_spatial(tensor.shape) for tensor in (x, w, y))
    return Convolution(
        kind, x_shape, _strides(x_shape, channels_last), w_shape, _strides(w_shape, channels_last), y_shape,
        _strides(y_shape, channels_last), x.dtype, _spatial_steps(padding, 0), _spatial_steps(stride, 1),
        _spatial_steps(dilation, 1),
    )  # fmt: skip


def _spatial(shape: tuple[int, ...]) -> tuple[int, ...]:
    return (*shape[:2], 1, *shape[2:]) if len(shape) == 3 else shape


def _spatial_steps(numbers: Sequence[int], neutral: int) -> tuple[int, ...]:
    return (neutral, *numbers) if len(numbers) == 1 else tuple(numbers)


def _strides(shape: tuple[int, ...], channels_last: bool) -> tuple[int, ...]:
    order = (*range(len(shape) - 1, 1, -1), 1, 0)
    order = (1, *order[:-2], 0) if channels_last else order
    strides, step = [0] * len(shape), 1
    for dimension in order:
        strides[dimension] = step
        step *= shape[dimension]
    return tuple(strides)
