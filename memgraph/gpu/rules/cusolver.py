"""What cuSOLVER asks for to work in, in bytes. It cannot be asked without a driver.

The laws were read off sizes recorded on an H200 (CUDA 13.0, torch 2.11), and hold for all of them to the byte but where
the answer is named an estimate; docs/accuracy.md says which were tried on sizes that nobody had looked at. Buffers are
the same for float32 and float64 in elements; the same of complex numbers is assumed.
"""

from __future__ import annotations

from typing import NamedTuple

from memgraph.gpu.rules.layout import ceil_div

_ALIGNED = 32
"""Elements to which a routine's sum is rounded up, or bytes of those that count in bytes."""
_PANEL = 64
_QR_COLUMNS, _QR_ROWS = 1024, 512
_JACOBI_MOST = 512
_LU_MOST = 1024
_BLOCK = 128


class Work(NamedTuple):
    """A buffer, and whether its size is known."""

    size: int
    known: bool = True

    @property
    def name(self) -> str:
        return "cuSOLVER workspace" if self.known else "cuSOLVER workspace (estimate)"


def cholesky(n: int) -> Work:
    """`Xpotrf`: a table of the panels' tiles. Of no type in particular."""
    return Work(128 + _up(16 * ceil_div(n, _PANEL) ** 2))


def lu(n: int) -> Work:
    """`getrf`: two halves of its pivots. Above 1,024 rows it works by blocks that are not known: at 2,048 it takes 25
    bytes a row in float32 and 42 in float64."""
    if n > _LU_MOST:
        return Work(256 + 25 * n, known=False)
    half = max(16, min(256, 1 << ((n - 1).bit_length() - 1))) if n > 1 else 16
    return Work(256 + 16 * half + 8 * _up(n))


def qr(columns: int, itemsize: int) -> Work:
    """`Xgeqrf`, whatever the rows."""
    return Work(128 + itemsize * _qr_elements(columns))


def orthogonal(rows: int, columns: int, reflectors: int, itemsize: int) -> Work:
    """`orgqr`: Q of `rows` by `columns` from so many reflectors."""
    return Work(itemsize * _orthogonal_elements(rows, columns, reflectors))


def apply_orthogonal(rows: int, columns: int, reflectors: int, itemsize: int, *, left: bool = True) -> Work:
    """`ormqr`: Q times a matrix of `rows` by `columns`, or that times Q."""
    length = rows if left else columns
    tiles = 256 * rows + (512 * columns if left else 0)
    return Work(itemsize * _up(65536 + 288 + tiles + reflectors * (reflectors + length)))


def eigenvalues(n: int, itemsize: int, batch: int = 1) -> Work:
    """Of symmetric matrices. `syevj` for float32 of 32 to 512 rows, else `syevd`; all of a batch of small ones at once.
    The latter's law is known to 48 elements in the larger of two ways of dividing."""
    if itemsize == 4 and 32 <= n <= _JACOBI_MOST and (batch == 1 or n > 32):
        blocks = ceil_div(n, _ALIGNED)
        return Work(itemsize * (n * n + n + 1024 * (blocks + 1) + 4 * blocks * blocks + blocks))
    aside = 64 if itemsize == 4 else 0
    if n <= 32:
        return Work(itemsize * (batch * (3 * n * n + 767 * n + 65540) + 76) + aside, known=False)
    first, second = 3 * n * n + 768 * n + 65536 + 83, 4 * n * n + 126 * n + _up(n) + 32979
    return Work(itemsize * max(first, second) + aside, known=second > first)


def singular_values(rows: int, columns: int, itemsize: int, *, wanted: int) -> Work:
    """`gesvdj`. A matrix that is not square is first made square by a QR, whose Q is then applied to `wanted` columns;
    a wide one is transposed before."""
    if max(rows, columns) <= _ALIGNED:
        return Work(992 * itemsize)
    if rows == columns:
        return Work(itemsize * _jacobi_elements(rows))
    long, short = max(rows, columns), min(rows, columns)
    applied = 65536 + 256 * long + 513 * wanted + short * (short + long) + 240
    elements = max(_qr_elements(short), _up(applied), _jacobi_elements(short)) + _up(short) + _ALIGNED
    transposed = rows * columns if rows < columns else 0
    return Work(itemsize * (elements + transposed), known=5 * long >= 6 * short)


def indefinite(n: int, itemsize: int) -> Work:
    """`sytrf`."""
    return Work(itemsize * max(24608 if itemsize == 4 else 13328, 64 * (n + 1)))


def general_eigenvalues(n: int, itemsize: int) -> Work:
    """`Xgeev`: what making its Q takes, or a copy, and some vectors. Known to a hundred elements."""
    made = max(_orthogonal_elements(n - 1, n - 1, n - 1), n * n)
    return Work(itemsize * (made + 4 * n + 96), known=False)


def bidiagonal(n: int, itemsize: int) -> Work:
    """`gesvd` of square matrices from 64 rows on."""
    return Work(itemsize * (3 * n * n + 260 * n + 65792), known=n >= 64)


def _qr_elements(columns: int) -> int:
    return _QR_ROWS * 1024 + _QR_COLUMNS * max(columns, 256)


def _orthogonal_elements(rows: int, columns: int, reflectors: int) -> int:
    """The larger of one reflector after the other, and by blocks."""
    block = min(reflectors, _BLOCK)
    one_by_one = 32768 + 256 + _up(block * rows)
    return max(one_by_one, _BLOCK * _BLOCK + 256 + _up(block * rows) + _up(2 * block * columns))


def _jacobi_elements(n: int) -> int:
    blocks = ceil_div(n, _PANEL)
    return _up(2 * n * n + n + 4096 * blocks + 1024 + 16 * blocks * blocks + 2 * blocks)


def _up(value: int) -> int:
    return ceil_div(value, _ALIGNED) * _ALIGNED
