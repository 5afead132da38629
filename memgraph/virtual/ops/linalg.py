"""What ops of linear algebra return on the virtual GPU, where torch does not know it without computing.

Matrices come out with their columns one after the other, as LAPACK and cuSOLVER leave them. Sources:
aten/src/ATen/native/BatchLinearAlgebra.cpp and cuda/linalg/BatchLinearAlgebra.cpp.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch._ops import OpOverload

aten = torch.ops.aten


def _by_columns(like: Tensor, shape: Sequence[int], dtype: torch.dtype | None = None) -> Tensor:
    *batch, rows, columns = shape
    return torch.empty((*batch, columns, rows), dtype=dtype or like.dtype, device=like.device).mT


def _geqrf(source: Tensor) -> tuple[Tensor, Tensor]:
    """Reflectors below the diagonal and R above it, and their factors."""
    *batch, rows, columns = source.shape
    return _by_columns(source, source.shape), source.new_empty((*batch, min(rows, columns)))


def _eig(source: Tensor) -> tuple[Tensor, Tensor]:
    """Complex values and vectors."""
    dtype = source.dtype if source.dtype.is_complex else source.dtype.to_complex()
    return source.new_empty(source.shape[:-1], dtype=dtype), _by_columns(source, source.shape, dtype)


def _lstsq(
    source: Tensor, other: Tensor, rcond: float | None = None, *, driver: str | None = None
) -> tuple[Tensor, ...]:
    """CUDA has one driver, `gels`, which takes every matrix to be of full rank: there are residuals wherever there are
    more rows than columns, and neither a rank nor singular values (`linalg_lstsq_out_info`)."""
    if driver not in (None, "gels"):
        raise RuntimeError("torch.linalg.lstsq: `driver` other than `gels` is not supported on CUDA")
    rows, columns = source.shape[-2:]
    vector = other.dim() == 1 or (source.dim() - 1 == other.dim() and other.shape == source.shape[:-1])
    right = other.unsqueeze(-1) if vector else other
    batch = torch.broadcast_shapes(source.shape[:-2], right.shape[:-2])
    whole = _by_columns(source, (*batch, max(rows, columns), right.shape[-1]))
    solution = whole.narrow(-2, 0, columns)
    if vector:
        solution = solution.squeeze(-1)
    residuals = source.new_empty((*batch, right.shape[-1]) if rows > columns else (0,))
    return solution, residuals, source.new_empty((0,), dtype=torch.int64), source.new_empty((0,))


KERNELS: Mapping[OpOverload, Callable[..., Any]] = {
    aten.geqrf.default: _geqrf,
    aten.linalg_eig.default: _eig,
    aten.linalg_lstsq.default: _lstsq,
}


def _svdvals(source: Tensor, *, driver: str | None = None) -> Tensor:
    """Vectors are found for a gradient alone, and for every tensor subclass (`_requires_fw_or_bw_data`)."""
    values: Tensor = aten._linalg_svd(source, False, _needs_gradient(source), driver=driver)[1]
    return values


def _eigvalsh(source: Tensor, UPLO: str = "L") -> Tensor:  # noqa: N803  # torch's name
    """As `_svdvals`."""
    values: Tensor = aten._linalg_eigh(source, UPLO, _needs_gradient(source))[0]
    return values


def _needs_gradient(source: Tensor) -> bool:
    return torch.is_grad_enabled() and source.requires_grad


COMPOSITES: Mapping[OpOverload, Callable[..., Any]] = {
    aten.linalg_svdvals.default: _svdvals,
    aten.linalg_eigvalsh.default: _eigvalsh,
}
