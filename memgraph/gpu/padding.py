"""Whether `torch.compile` pads a matrix product of unaligned sizes, which it finds out by timing both on the card.

cuBLAS loads 16 bytes at a time where every row starts at a multiple of 16 bytes; where one does not, it falls back to
kernels that load single elements. An estimate of both times, from the card's rates and what was measured on an H200.
"""

from __future__ import annotations

import math
from typing import NamedTuple

from memgraph.gpu.spec import GpuSpec

_VECTOR = 16
"""Bytes of a load."""
_UNALIGNED, _UNALIGNED_START = 134 / 989, 62e-6
"""Of the dense rate that an unaligned product reaches once it runs, and the seconds that it takes besides: the line
through five of 58 to 464 GFLOP (H200, bf16, torch 2.11)."""
_ALIGNED = 3 / 4
"""Of the dense rate that an aligned one reaches: 749 TFLOP/s in the first of them."""
_TRANSPOSING = 0.118
"""Of the bandwidth that a copy reaches which reads columns and writes rows: 564 to 575 of 4,800 GB/s in four of 0.2 to
1.6 GB."""
_LAUNCH = 5e-6
"""Seconds that a kernel takes at least."""
_MARGIN = 1.1
"""How much faster a padded product has to be: `is_padded_faster` of _inductor/fx_passes/pad_mm.py."""


class Operand(NamedTuple):
    """One side of a product."""

    shape: tuple[int, ...]
    stride: tuple[int, ...]
    padded_before: bool
    """Whether padding it costs nothing, because whoever makes it can make it padded."""

    @property
    def row(self) -> int:
        """Elements from one row, or column, to the next."""
        return max(self.stride[-2:])

    @property
    def transposed(self) -> bool:
        """Whether columns lie one after the other."""
        return self.stride[-1] != 1


class Product(NamedTuple):
    """A product that could be padded."""

    left: Operand
    right: Operand
    itemsize: int

    @property
    def flops(self) -> int:
        """Multiplications and additions."""
        return 2 * math.prod(self.left.shape) * self.right.shape[-1]


def padding_pays(product: Product, gpu: GpuSpec) -> bool:
    """Whether the padded product is the faster one by the margin that is asked for."""
    rate = gpu.half_rate if product.itemsize == 2 else gpu.float_rate
    fast = product.flops / (rate * _ALIGNED)
    plain = fast if _aligned(product) else _UNALIGNED_START + product.flops / (rate * _UNALIGNED)
    copies = [_copy(operand, product.itemsize, gpu) for operand in (product.left, product.right)]
    padded = fast + sum(copies)
    return _LAUNCH + plain > _MARGIN * (_LAUNCH + padded)


def _aligned(product: Product) -> bool:
    """Whether every row of both operands and of the result starts at a multiple of 16 bytes."""
    elements = _VECTOR // product.itemsize
    rows = (product.left.row, product.right.row, product.right.shape[-1])
    return all(row % elements == 0 for row in rows)


def _copy(operand: Operand, itemsize: int, gpu: GpuSpec) -> float:
    """Seconds to copy an operand into a padded one: zeros are made, and both are joined."""
    if operand.padded_before:
        return 0.0
    bandwidth = gpu.bandwidth * (_TRANSPOSING if operand.transposed else 1)
    return 2 * _LAUNCH + 2 * math.prod(operand.shape) * itemsize / bandwidth
