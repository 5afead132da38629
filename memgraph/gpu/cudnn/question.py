"""What cuDNN is asked about a convolution, and what it answers. Plain data."""

from __future__ import annotations

from typing import NamedTuple


class Config(NamedTuple):
    """One configuration that the heuristics propose."""

    engine: int
    knobs: tuple[tuple[int, int], ...]
    """Number of the knob (`cudnnBackendKnobType_t`) and its setting."""
    notes: tuple[int, ...]
    workspace: int
    """Bytes of its plan; -1 where no plan can be made of it."""


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
