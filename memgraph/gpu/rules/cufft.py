"""What a plan of cuFFT's works in, in bytes. It cannot be asked without a driver.

Read off lengths that were recorded on an H200 (CUDA 13.0, torch 2.11), 180 plans along one dimension and 40 along two
and three (`benchmarks/single_ops`). For which lengths there is a kernel that needs nothing is a table of cuFFT's own;
what was not seen to need nothing is named an estimate.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

_ONE_KERNEL = 4096
"""The longest signal of any length that one kernel has, padded in its own memory if it must."""
_TWO_KERNELS = 32768
"""From here on signals pass through a second buffer."""
_DIRECT = 127
"""The largest prime factor that is computed as it is; others are padded (Bluestein's algorithm)."""
_POWERS, _STRIDED, _SMALL_FACTORS = 32768, 1024, 7
_ASIDE = 2048

Size = tuple[int, bool]
"""Bytes, and whether they are known."""


def complex_workspace(batch: int, lengths: Sequence[int], itemsize: int) -> Size:
    """Of `batch` signals of complex numbers of `itemsize` bytes."""
    if len(lengths) > 1:
        return _through(lengths) * batch * math.prod(lengths) * itemsize, max(lengths) <= 1024
    (n,) = lengths
    if n > _ONE_KERNEL and largest_factor(n) > _DIRECT:
        return batch * 2 * padded(n) * itemsize, False
    return (batch * n * itemsize if n >= _TWO_KERNELS else 0), True


def real_workspace(batch: int, lengths: Sequence[int], itemsize: int, *, strided: bool = False) -> Size:
    """Of `batch` signals of real numbers, or that become real, in the complex type's `itemsize`.

    Args:
        lengths: of the signals as real numbers; the last is halved.
        strided: the last dimension's numbers do not lie one after the other.
    """
    *others, n = lengths
    batch *= math.prod(others)
    half = n // 2
    if _through(lengths):
        return batch * (half + 1) * itemsize, False
    if n % 2:
        return _odd(batch, n, itemsize)
    if half >= _TWO_KERNELS:
        return batch * (half + 1) * itemsize, True
    if largest_factor(half) > _DIRECT:
        padding = half if half <= _ONE_KERNEL else 2 * padded(half)
        return batch * (half + padding) * itemsize + (_ASIDE if half > _ONE_KERNEL else 0), False
    if _direct(n, strided):
        return 0, True
    return batch * half * itemsize, True


def _odd(batch: int, n: int, itemsize: int) -> Size:
    """Two real signals are one complex one."""
    if _direct(n, strided=False) or n <= 32:
        return 0, True
    pairs = -(-batch // 2)
    if n > _ONE_KERNEL and largest_factor(n) > _DIRECT:
        return pairs * (2 * padded(n) + n) * itemsize + _ASIDE, False
    return pairs * 2 * n * itemsize, False


def _direct(n: int, strided: bool) -> bool:
    """Whether there is a kernel that reads and writes real numbers."""
    if strided and n > _STRIDED:
        return False
    return n & (n - 1) == 0 and n <= _POWERS if n > _ONE_KERNEL else largest_factor(n) <= _SMALL_FACTORS


def _through(lengths: Sequence[int]) -> bool:
    """Whether several dimensions pass through a second buffer: seen for 2,000 by 3,000, and not for 1,024 by 1,024 and
    4,096 by 16."""
    return len(lengths) > 1 and any(n > 1024 and n & (n - 1) for n in lengths)


def largest_factor(n: int) -> int:
    """The largest prime factor."""
    largest, factor = 1, 2
    while factor * factor <= n:
        while n % factor == 0:
            largest, n = factor, n // factor
        factor += 1
    return max(largest, n)


def padded(n: int) -> int:
    """The next length from 2 n - 1 on whose factors are 2, 3 and 5. Seen for 4,099 (8,640), 24,575 (49,152) and 999,983
    (2,000,000); within half a per cent of what 10,007 and 20,014 take."""
    length = 2 * n - 1
    while _rest(length) != 1:
        length += 1
    return length


def _rest(n: int) -> int:
    for factor in (2, 3, 5):
        while n % factor == 0:
            n //= factor
    return n
