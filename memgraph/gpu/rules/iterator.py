"""How torch's TensorIterator lays out a reduction: which dimensions it sorts, merges and splits.

A CUDA reduction is planned on what is left after that, so its scratch depends on strides as much as on shapes.
Source: aten/src/ATen/TensorIterator.cpp, `compute_strides`, `reorder_dimensions`, `coalesce_dimensions`, `split`.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from memgraph.gpu.call import TensorMeta
from memgraph.gpu.rules.layout import INT32_MAX, compare_strides, contiguous_stride, sort_dims


class Reduction(NamedTuple):
    """A reduction as its kernel sees it: dimensions from the fastest on, reduced ones first. Strides in elements."""

    shape: tuple[int, ...]
    source: tuple[int, ...]
    """Strides of the input."""
    target: tuple[int, ...]
    """Strides of the outputs; 0 in a reduced dimension."""
    itemsizes: tuple[int, ...]
    """Bytes of an element of each output, then of the input."""

    @property
    def reduced_dims(self) -> int:
        """Number of reduced dimensions."""
        return self.target.count(0)

    @property
    def outputs(self) -> int:
        """Number of output elements."""
        return math.prod(
            [size for size, stride in zip(self.shape, self.target, strict=True) if stride != 0 or size == 0]
        )

    @property
    def fits_32bit(self) -> bool:
        """Whether 32-bit offsets reach every byte of every operand."""
        operands = [self.target] * (len(self.itemsizes) - 1) + [self.source]
        reach = (1 + size * self._span(stride) for size, stride in zip(self.itemsizes, operands, strict=True))
        return math.prod(self.shape) <= INT32_MAX and all(last <= INT32_MAX for last in reach)

    def _span(self, stride: Sequence[int]) -> int:
        return sum((size - 1) * step for size, step in zip(self.shape, stride, strict=True))

    def pieces(self) -> Iterator[Reduction]:
        """The reductions that this one is split into until 32-bit offsets do, in the order in which they run."""
        stack = [self]
        while stack:
            piece = stack.pop()
            if piece.fits_32bit:
                yield piece
            else:
                first, rest = piece._halves(piece._longest_dim())
                stack += [rest, first]

    def _longest_dim(self) -> int:
        """The dimension over which some operand reaches furthest; the last of equals, as the loop runs backwards."""
        widest, longest = -1, 0
        strides = [(size, self.target) for size in self.itemsizes[:-1]] + [(self.itemsizes[-1], self.source)]
        for dim in reversed(range(len(self.shape))):
            for itemsize, stride in strides:
                extent = (self.shape[dim] - 1) * stride[dim] * itemsize
                if extent > widest:
                    widest, longest = extent, dim
        return longest

    def _halves(self, dim: int) -> tuple[Reduction, Reduction]:
        half = self.shape[dim] // 2
        sizes = (half, self.shape[dim] - half)
        first, rest = (self._replace(shape=(*self.shape[:dim], size, *self.shape[dim + 1 :])) for size in sizes)
        return first, rest


def reduction(source: TensorMeta, dims: Sequence[int], keepdim: bool, itemsizes: tuple[int, ...]) -> Reduction:
    """Plan the reduction of `source` over `dims` (all of them if empty) into fresh contiguous outputs of `itemsizes`
    bytes an element."""
    reduced = set(dims) or set(range(len(source.shape)))
    target = _target_stride(source.shape, reduced, keepdim)
    order = sort_dims(len(source.shape), lambda one, two: _compare(target, source, one, two))
    shape, inner, outer = ([column[dim] for dim in order] for column in (source.shape, source.stride, target))
    return _coalesce(shape, inner, outer, (*itemsizes, source.itemsize))


def _target_stride(shape: Sequence[int], reduced: set[int], keepdim: bool) -> tuple[int, ...]:
    """Strides of the output, seen with the input's dimensions. Source: `review_reduce_result`, `compute_strides`."""
    if keepdim:
        kept = contiguous_stride([1 if dim in reduced else size for dim, size in enumerate(shape)])
        return tuple(0 if dim in reduced and shape[dim] != 1 else stride for dim, stride in enumerate(kept))
    rest = iter(contiguous_stride([size for dim, size in enumerate(shape) if dim not in reduced]))
    return tuple(0 if dim in reduced else next(rest) for dim in range(len(shape)))


def _compare(target: Sequence[int], source: TensorMeta, one: int, two: int) -> int:
    if (target[one] == 0) != (target[two] == 0):
        return 1 if target[two] == 0 else -1
    return compare_strides(target, source.shape, one, two) or compare_strides(source.stride, source.shape, one, two)


def _coalesce(shape: list[int], source: list[int], target: list[int], itemsizes: tuple[int, ...]) -> Reduction:
    """Merge neighbours that are one stretch for every operand, or of which one has size 1."""
    merged: list[list[int]] = []
    for size, inner, outer in zip(shape, source, target, strict=True):
        last = merged[-1] if merged else None
        if last is None or not _joins(last, size, inner, outer):
            merged.append([size, inner, outer])
        else:
            last[:] = [size, inner, outer] if last[0] == 1 else [last[0] * size, last[1], last[2]]
    sizes, inners, outers = (tuple(row[column] for row in merged) for column in range(3))
    return Reduction(sizes, inners, outers, itemsizes)


def _joins(last: list[int], size: int, inner: int, outer: int) -> bool:
    return 1 in (last[0], size) or (last[0] * last[1] == inner and last[0] * last[2] == outer)
