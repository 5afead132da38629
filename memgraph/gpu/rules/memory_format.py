"""Which order of dimensions PyTorch reads off a tensor: row-major, or with the channels innermost.

Source: c10/core/MemoryFormat.h (`is_channels_last_strides_2d_s4`, `…_3d_s5`), c10/core/TensorImpl.h
(`is_strides_like_channels_last`), `suggest_memory_format` of aten/src/ATen/core/TensorBase.h.
"""

from __future__ import annotations

from memgraph.gpu.call import TensorMeta
from memgraph.gpu.rules.layout import permuted


def suggests_last(tensor: TensorMeta) -> bool:
    """`suggest_memory_format()`: whether the strides say channels-last. They may have gaps; where a shape leaves it
    open, row-major is meant. A tensor of three dimensions is seen as one of height 1 (`view4d`, Convolution.cpp)."""
    tensor = _with_height(tensor)
    rank = len(tensor.shape)
    if rank not in (4, 5) or tensor.stride[1] == 0:
        return False
    least = 0
    for dim in (1, *range(rank - 1, 1, -1), 0):
        size, stride = tensor.shape[dim], tensor.stride[dim]
        if size == 0 or stride < least or (dim == 0 and least == tensor.stride[1]):
            return False
        least = stride * size if size > 1 else stride
    return True


def is_in(tensor: TensorMeta, last: bool) -> bool:
    """`is_contiguous(memory_format=…)`: dimensions of one element do not matter."""
    if not last:
        return tensor.is_contiguous
    tensor = _with_height(tensor)
    if len(tensor.shape) not in (4, 5):
        return False
    return permuted(tensor, (0, *range(2, len(tensor.shape)), 1)).is_contiguous


def _with_height(tensor: TensorMeta) -> TensorMeta:
    """`unsqueeze(2)` of three dimensions."""
    if len(tensor.shape) != 3:
        return tensor
    (batch, channels, width), (outer, middle, inner) = tensor.shape, tensor.stride
    return tensor._replace(shape=(batch, channels, 1, width), stride=(outer, middle, width * inner, inner))
