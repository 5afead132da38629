"""Strides, copies and the writing down of steps: what every rule needs."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from memgraph.gpu.call import Call, OnHost, Output, Release, Smaller, Step, Steps, Temporary, TensorMeta, Trial

ITEMSIZE = {
    "bool": 1,
    "uint8": 1,
    "int8": 1,
    "uint16": 2,
    "int16": 2,
    "float16": 2,
    "bfloat16": 2,
    "uint32": 4,
    "int32": 4,
    "float32": 4,
    "uint64": 8,
    "int64": 8,
    "float64": 8,
    "complex32": 4,
    "complex64": 8,
    "complex128": 16,
    "float8_e4m3fn": 1,
    "float8_e5m2": 1,
    "float8_e4m3fnuz": 1,
    "float8_e5m2fnuz": 1,
}
"""Bytes of one element, by the dtype's name."""

LOW_PRECISION = ("float16", "bfloat16")
INTEGRAL = ("bool", "uint8", "int8", "uint16", "int16", "uint32", "int32", "uint64", "int64")

INT32_MAX = 2**31 - 1


class Plan:
    """Writes down the steps of one op. Temporaries of no bytes are left out: the allocator is not asked for them."""

    def __init__(self, call: Call) -> None:
        self._outputs = len(call.outputs)
        self._steps: list[Step] = []
        self._temporaries = 0

    @property
    def has_output(self) -> bool:
        """Whether the op returns any storage of its own: not in place, not `out=`."""
        return self._outputs > 0

    def output(self, index: int = 0) -> None:
        """Output `index` is allocated now, if the op returns it as a storage of its own."""
        if index < self._outputs:
            self._steps.append(Output(index))

    def on_host(self, *indices: int) -> None:
        """These outputs are in host memory."""
        self._steps.extend(OnHost(index) for index in indices if index < self._outputs)

    def outputs(self, first: int = 0) -> None:
        """All outputs from `first` on are allocated now, in order."""
        for index in range(first, self._outputs):
            self.output(index)

    def temporary(self, size: int, name: str, smaller: Smaller | None = None) -> int:
        """`size` bytes are allocated now; the answer names them for `release`."""
        if size <= 0:
            return -1
        self._steps.append(Temporary(size, name, smaller))
        self._temporaries += 1
        return self._temporaries - 1

    def trial(self, kernels: Smaller) -> None:
        """Kernels are tried now, if such a call is the first."""
        self._steps.append(Trial(kernels))

    def release(self, *temporaries: int) -> None:
        """Temporaries are freed now, before the op ends."""
        self._steps.extend(Release(index) for index in temporaries if index >= 0)

    def scratch(self, *sizes: int, name: str) -> None:
        """A call inside the op takes temporaries and gives them back, the last first."""
        self.release(*reversed([self.temporary(size, name) for size in sizes]))

    def contiguous(self, tensor: TensorMeta | None, name: str) -> int:
        """The copy that `tensor.contiguous()` makes, if it makes one."""
        return -1 if tensor is None or tensor.is_contiguous else self.temporary(tensor.nbytes, name)

    def steps(self) -> Steps:
        """What was written down."""
        return tuple(self._steps)


def tensors(value: Any) -> Iterator[TensorMeta]:
    """The tensors among arguments, lists included, in order."""
    if isinstance(value, TensorMeta):
        yield value
    elif isinstance(value, tuple):
        for item in value:
            yield from tensors(item)


def contiguous_stride(shape: Sequence[int]) -> tuple[int, ...]:
    """Row-major strides; a dimension of no elements counts as one, as torch counts it."""
    stride, step = [0] * len(shape), 1
    for dim in reversed(range(len(shape))):
        stride[dim] = step
        step *= max(shape[dim], 1)
    return tuple(stride)


def is_dense(tensor: TensorMeta) -> bool:
    """Whether the elements fill one stretch of memory without overlap, in any order of dimensions.
    Source: c10/core/Contiguity.h, `_compute_non_overlapping_and_dense`."""
    if len(tensor.shape) == 1:
        return tensor.shape[0] < 2 or tensor.stride[0] == 1
    order = sorted((stride, size) for size, stride in zip(tensor.shape, tensor.stride, strict=True) if size >= 2)
    step = 1
    for stride, size in order:
        if stride != step:
            return False
        step *= size
    return True


def sort_dims(rank: int, compare: Callable[[int, int], int]) -> list[int]:
    """Dimensions, the fastest first: an insertion sort from the last one that lets ambiguous comparisons (0) pass.
    Source: `TensorIteratorBase::reorder_dimensions`, `infer_dense_strides`."""
    order = list(reversed(range(rank)))
    for start in range(1, rank):
        place = start
        for before in range(start - 1, -1, -1):
            verdict = compare(order[before], order[place])
            if verdict < 0:
                break
            if verdict > 0:
                order[before], order[place] = order[place], order[before]
                place = before
    return order


def compare_strides(stride: Sequence[int], shape: Sequence[int], first: int, second: int) -> int:
    """1 if dimension `first` should come after `second`, -1 if before, 0 if that is open."""
    if stride[first] == 0 or stride[second] == 0:
        return 0
    if stride[first] != stride[second]:
        return -1 if stride[first] < stride[second] else 1
    return 1 if shape[first] > shape[second] else 0


def like(tensor: TensorMeta, dtype: str) -> TensorMeta:
    """The tensor on the device that `tensor.to(dtype)` makes: its own order of dimensions, without gaps.
    Source: `empty_like` with `MemoryFormat::Preserve`, `infer_dense_strides`."""
    stride = tensor.stride if is_dense(tensor) else _packed_stride(tensor)
    return TensorMeta(tensor.shape, stride, dtype, ITEMSIZE[dtype])


def _packed_stride(tensor: TensorMeta) -> tuple[int, ...]:
    rank = len(tensor.shape)
    order = sort_dims(rank, functools.partial(compare_strides, tensor.stride, tensor.shape))
    stride, step = [0] * rank, 1
    for dim in order:
        stride[dim] = step
        step *= max(tensor.shape[dim], 1)
    return tuple(stride)


def permuted(tensor: TensorMeta, dims: Sequence[int]) -> TensorMeta:
    """A view with the dimensions in another order."""
    shape, stride = tuple(tensor.shape[dim] for dim in dims), tuple(tensor.stride[dim] for dim in dims)
    return tensor._replace(shape=shape, stride=stride)


def dense(shape: Sequence[int], dtype: str) -> TensorMeta:
    """A new contiguous tensor."""
    return TensorMeta(tuple(shape), contiguous_stride(shape), dtype, ITEMSIZE[dtype])


def broadcast(shapes: Sequence[Sequence[int]]) -> tuple[int, ...]:
    """The shape that tensors of these shapes broadcast to."""
    rank = max((len(shape) for shape in shapes), default=0)
    padded = [(1,) * (rank - len(shape)) + tuple(shape) for shape in shapes]
    return tuple(next((size for size in sizes if size != 1), 1) for sizes in zip(*padded, strict=True))


def expanded(tensor: TensorMeta, shape: Sequence[int]) -> TensorMeta:
    """The view that `tensor.expand(shape)` is."""
    missing = len(shape) - len(tensor.shape)
    old = (1,) * missing + tensor.shape
    stride = tuple(
        0 if before == 1 and after != 1 else step
        for before, after, step in zip(old, shape, (0,) * missing + tensor.stride, strict=True)
    )
    return tensor._replace(shape=tuple(shape), stride=stride)


def wrap(dim: int, rank: int) -> int:
    """A dimension counted from the front."""
    return dim + max(rank, 1) if dim < 0 else dim


def ceil_div(value: int, by: int) -> int:
    """Division, rounded up."""
    return -(-value // by)


def accumulate_type(dtype: str) -> str:
    """The type that CUDA kernels add up in. Source: `AccumulateType.h`, `toAccumulateType(dtype, is_cuda=true)`."""
    if dtype in LOW_PRECISION:
        return "float32"
    return "int64" if dtype in INTEGRAL and dtype != "bool" else dtype
