"""Sparse tensors on the virtual GPU: gradients of embeddings, and what the optimizers do with them.

A sparse tensor has no storage of its own: it holds two tensors that have, indices and values. torch knows few of these
ops without values. Sources: aten/src/ATen/native/sparse (SparseTensor.cpp, SparseTensorMath.cpp), and its folder cuda
(SparseCUDATensor.cu, SparseCUDATensorMath.cu).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor
from torch._ops import OpOverload
from torch._subclasses.fake_tensor import FakeTensor, in_kernel_invocation_manager, unset_fake_temporarily

from memgraph.virtual.values.known import known

aten = torch.ops.aten
Select = Callable[[int, str], int]
"""Given the bound of a size that depends on data and what it counts: the size to go on with, which is then stated."""


def parts_of(tensor: FakeTensor) -> tuple[FakeTensor, ...]:
    """The tensors that hold a fake tensor's data: itself, or a sparse one's indices and values.

    Raises:
        NotImplementedError: a layout that is not followed.
    """
    if tensor.layout is torch.strided:
        return (tensor,)
    if tensor.layout is not torch.sparse_coo:
        raise NotImplementedError(f"memgraph does not follow tensors of the layout {tensor.layout}")
    with in_kernel_invocation_manager(tensor.fake_mode):
        indices, values = aten._indices.default(tensor), aten._values.default(tensor)
    return tuple(FakeTensor(tensor.fake_mode, part, tensor.fake_device) for part in (indices, values))


def is_coalesced(tensor: FakeTensor) -> bool:
    """Whether a sparse tensor's indices are known to differ, asked without an op of the run."""
    with in_kernel_invocation_manager(tensor.fake_mode):
        return bool(aten.is_coalesced.default(tensor))


_ENTRY_BY_ENTRY = (
    aten.mul.Tensor, aten.div.Tensor, aten.neg.default, aten.abs.default, aten.sqrt.default, aten.relu.default,
    aten.pow.Tensor_Scalar,
)  # fmt: skip


def kernels(select: Select) -> Mapping[OpOverload, Callable[..., Any]]:
    """What these ops return. Those that also take dense tensors leave them to torch."""

    def coalesce(source: FakeTensor) -> Tensor:
        """Rows of the same index are added up, so there are as many as different indices."""
        indices, values = parts_of(source)
        rows = _rows(indices)
        if rows is not None:
            with unset_fake_temporarily():
                different = rows.unique(dim=1)
            count = different.shape[1]
        else:
            bound = min(values.shape[0], math.prod(source.shape[: indices.shape[0]]))
            count = select(bound, "rows of a sparse tensor are taken to be different")
        fresh = indices.new_empty(len(indices), count)
        if rows is not None:
            _remember_rows(fresh, different)
        return _make(source, fresh, values.new_empty(count, *values.shape[1:]), True)

    def entries(source: FakeTensor, sparse_dims: int) -> Tensor:
        """[dimensions, entries]: where a dense tensor, or any of a place's values, is other than 0."""
        value = known(source)
        if value is None:
            bound = math.prod(source.shape[:sparse_dims])
            count = select(bound, "elements of a dense tensor that becomes a sparse one are taken to be other than 0")
            return source.new_empty(sparse_dims, count, dtype=torch.int64)
        with unset_fake_temporarily():
            rows = (value != 0).flatten(sparse_dims).any(-1) if value.dim() > sparse_dims else value != 0
            places = rows.nonzero().t().contiguous()
        fresh = source.new_empty(places.shape, dtype=torch.int64)
        _remember_rows(fresh, places)
        return fresh

    def to_sparse(source: FakeTensor, sparse_dims: int | None = None, **more: Any) -> Tensor:
        """`_to_sparse`, into coordinates; other layouts are left to torch, which refuses them."""
        if source.layout is not torch.strided or more.get("layout") not in (None, torch.sparse_coo):
            return NotImplemented
        dims = source.dim() - (more.get("dense_dim") or 0) if sparse_dims is None else sparse_dims
        indices = entries(source, dims)
        values = source.new_empty(indices.shape[1], *source.shape[dims:])
        return _make(source, indices, values, True)

    return {
        aten._to_sparse.default: to_sparse,
        aten._to_sparse.sparse_dim: to_sparse,
        aten.mm.default: _mm,
        aten.mv.default: _mv,
        aten.transpose.int: _transpose,
        aten.t.default: _transpose,
        **dict.fromkeys(_ENTRY_BY_ENTRY, _scaled),
        aten._to_dense.default: _to_dense,
        aten._sparse_coo_tensor_with_dims_and_tensors.default: _with_known_rows,
        aten._coalesce.default: coalesce,
        aten.add.Tensor: _add,
        aten.add_.Tensor: _add_in_place,
        aten.clone.default: _clone,
        aten.detach.default: _detach,
        aten._to_copy.default: _to_copy,
        aten.sparse_mask.default: _sparse_mask,
        aten._sparse_addmm.default: _sparse_addmm,
    }


def _with_known_rows(
    sparse_dim: int, dense_dim: int, size: Any, indices: Tensor, values: Tensor, **more: Any
) -> Tensor:  # fmt: skip
    """Made as ever; token ids that came from the CPU say which rows it has."""
    rows = known(indices)
    if rows is not None:
        _remember_rows(indices, rows)
    return aten._sparse_coo_tensor_with_dims_and_tensors.default(sparse_dim, dense_dim, size, indices, values, **more)


_ROWS = "_memgraph_rows"


def _place(indices: Tensor) -> tuple[Any, ...]:
    return indices.storage_offset(), tuple(indices.shape), indices.stride()


def _remember_rows(indices: Tensor, rows: Tensor) -> None:
    """[dims, entries]; kept with the storage, which a sparse tensor shares with all that are detached from it."""
    storage = indices.untyped_storage()
    setattr(storage, _ROWS, {**getattr(storage, _ROWS, {}), _place(indices): rows})


def _rows(indices: Tensor) -> Tensor | None:
    """The rows that a sparse tensor has, if they are known."""
    found: Tensor | None = getattr(indices.untyped_storage(), _ROWS, {}).get(_place(indices))
    return found


def _copied(indices: Tensor) -> Tensor:
    """A copy, of which as much is known."""
    copy, rows = indices.clone(), _rows(indices)
    if rows is not None:
        _remember_rows(copy, rows)
    return copy


def _make(like: Tensor, indices: Tensor, values: Tensor, coalesced: bool) -> Tensor:
    return aten._sparse_coo_tensor_with_dims_and_tensors.default(
        len(indices), values.dim() - 1, like.shape, indices, values, dtype=values.dtype, layout=torch.sparse_coo,
        device=values.device, is_coalesced=coalesced,
    )  # fmt: skip


def _add(first: Tensor, second: Any, *, alpha: Any = 1) -> Any:
    """Two sparse ones become the one after the other; a sparse one is added to a copy of a dense one."""
    if not isinstance(second, Tensor) or not second.is_sparse:
        return NotImplemented
    if not first.is_sparse:
        return torch.empty_like(first)
    indices, values = (torch.cat(pair, dim) for dim, pair in zip((1, 0), _pairs(first, second), strict=True))
    return _make(first, indices, values, False)


def _pairs(first: Any, second: Any) -> tuple[tuple[Tensor, Tensor], ...]:
    return tuple(zip(parts_of(first), parts_of(second), strict=True))


def _add_in_place(first: Tensor, second: Any, *, alpha: Any = 1) -> Any:
    if not isinstance(second, Tensor) or not second.is_sparse:
        return NotImplemented
    if first.is_sparse:
        return aten.copy_sparse_to_sparse_.default(first, _add(first, second))
    return first


def _clone(source: Any, *, memory_format: Any = None) -> Any:
    if not source.is_sparse:
        return NotImplemented
    indices: Tensor
    values: Tensor
    indices, values = parts_of(source)
    if not (_is_accumulated() and indices.is_contiguous() and values.is_contiguous()):
        indices, values = _copied(indices), values.clone()
    return _make(source, indices, values, source.is_coalesced())


def _mm(first: Any, second: Any) -> Any:
    """With a sparse one, a dense one; two sparse ones are left to torch."""
    if first.is_sparse == second.is_sparse:
        return NotImplemented
    dense = second if first.is_sparse else first
    _check_product(first, second)
    return dense.new_empty((first.shape[0], second.shape[1]))


_NAMES = {torch.float16: "Half", torch.bfloat16: "BFloat16"}


def _check_product(first: Tensor, second: Tensor) -> None:
    """As `s_addmm_out_sparse_dense_cuda` (sparse/cuda/SparseCUDATensorMath.cu) refuses operands; that of half types was
    seen on an H200 with torch 2.11."""
    if first.shape[1] != second.shape[0]:
        raise RuntimeError(f"addmm: Argument #3 (dense): Expected dim 0 size {first.shape[1]}, got {second.shape[0]}")
    if first.dtype in _NAMES:
        raise NotImplementedError(f"\"addmm_sparse_cuda\" not implemented for '{_NAMES[first.dtype]}'")


def _mv(first: Any, second: Any) -> Any:
    if not first.is_sparse:
        return NotImplemented
    _check_product(first, second)
    return second.new_empty(first.shape[:1])


def _transpose(source: Any, first: int = 0, second: int = 1) -> Any:
    """A copy whose rows of indices change places."""
    if not source.is_sparse:
        return NotImplemented
    indices, values = parts_of(source)
    rows = _rows(indices)
    places = list(range(len(indices)))
    places[first], places[second] = places[second], places[first]
    flipped: Tensor = indices.clone()
    if rows is not None:
        _remember_rows(flipped, rows[places])
    shape = list(source.shape)
    shape[first], shape[second] = shape[second], shape[first]
    return _make(source.new_empty(shape), flipped, values.clone(), False)


def _scaled(source: Any, other: Any = None) -> Any:
    """A sparse one, each entry by itself: times a number, say."""
    if not source.is_sparse or (isinstance(other, Tensor) and other.dim()):
        return NotImplemented
    indices, values = parts_of(source)
    return _make(source, _copied(indices), values.clone(), source.is_coalesced())


def _to_dense(source: Any, dtype: torch.dtype | None = None, masked_grad: bool | None = None) -> Any:
    if not source.is_sparse:
        return NotImplemented
    return parts_of(source)[1].new_empty(source.shape)


def _detach(source: Any) -> Any:
    """The same indices and values."""
    if not source.is_sparse:
        return NotImplemented
    indices, values = parts_of(source)
    return _make(source, indices, values, source.is_coalesced())


def _sparse_addmm(_start: Tensor, first: Tensor, second: Tensor, **_: Any) -> Tensor:
    _check_product(first, second)
    return second.new_empty((first.shape[0], second.shape[1]))


def _to_copy(source: Any, **wanted: Any) -> Any:
    """A real one from the CPU too."""
    if not source.is_sparse:
        return NotImplemented
    wanted = {key: value for key, value in wanted.items() if key not in ("memory_format", "layout")}
    if not isinstance(source, FakeTensor):
        return _from_the_host(source, wanted)
    indices, values = parts_of(source)
    moved = indices.to(device=wanted.get("device"), copy=True)
    return _make(source, moved, aten._to_copy.default(values, **wanted), source.is_coalesced())


def _from_the_host(source: Tensor, wanted: Mapping[str, Any]) -> Tensor:
    """Of a real one the rows are known. FakeTensor would take it for one without entries."""
    with unset_fake_temporarily():
        rows, values = aten._indices.default(source), aten._values.default(source)
    device = wanted.get("device")
    indices = torch.empty(rows.shape, dtype=rows.dtype, device=device)
    _remember_rows(indices, rows)
    moved = torch.empty(values.shape, dtype=wanted.get("dtype") or values.dtype, device=device)
    return _make(source, indices, moved, source.is_coalesced())


def _is_accumulated() -> bool:
    """Whether a gradient is about to be kept. A real one is taken over as it is; a fake one is cloned, because its
    Python object counts as one more reference to it (torch/csrc/autograd/functions/accumulate_grad.h)."""
    node = torch._C._current_autograd_node()
    return node is not None and node.name().endswith("AccumulateGrad")


def _sparse_mask(source: Tensor, mask: Any) -> Any:
    """A dense tensor's rows at the mask's indices."""
    if source.is_sparse:
        return NotImplemented
    indices, values = parts_of(mask)
    return _make(mask, _copied(indices), source.new_empty(values.shape), mask.is_coalesced())
