"""Sparse tensors in coordinates: rows sorted and added up, products with a dense one, rows of a dense one picked out.

Sources, in aten/src/ATen/native/sparse: cuda/SparseCUDATensor.cu (`_coalesce_sparse_cuda`),
cuda/SparseCUDATensorMath.cu (`s_addmm_out_sparse_dense_cuda`), cuda/SparseCUDABlas.cpp (`_csrmm2`), SparseTensor.cpp
(`sparse_mask`), SparseTensorMath.cpp (`intersection_binary_op_sparse_dense_out`, `_sparse_mm`). Read off
calls recorded on an H200 with torch 2.11, over nine shapes.
"""

from __future__ import annotations

from memgraph.gpu.call import Call, SparseMeta, Steps, TensorMeta
from memgraph.gpu.rules import cub
from memgraph.gpu.rules.indexing import nonzero_scratch, select_scratch
from memgraph.gpu.rules.layout import Plan, ceil_div
from memgraph.gpu.rules.reductions import Version
from memgraph.gpu.spec import GpuSpec


def _coalesce(call: Call, gpu: GpuSpec, version: Version) -> Steps:
    """`_coalesce(self)`: a copy of the indices, which becomes the result's, two ranges, a merge sort (the comparison is
    a function, so Thrust cannot take the digits), and the first of each index."""
    plan, source = Plan(call), call.args[0]
    if source.values.shape[0] < 2:
        plan.outputs()
        return plan.steps()
    single = source.indices.shape[0] == 1
    if single:
        plan.output(0)  # resized in place: the storage stays as large as it was
    _sorted(plan, source, gpu, flattened=not single)
    plan.output(1)
    plan.contiguous(source.values, "contiguous values")
    if not single:
        plan.output(0)
    return plan.steps()


def _sorted(plan: Plan, source: SparseMeta, gpu: GpuSpec, *, flattened: bool) -> list[int]:
    """What it takes to find equal indices, of which the ranges stay until the result is there."""
    count = source.values.shape[0]
    names = ("flattened indices", "original places", "distinct places")
    kept = [plan.temporary(8 * count, name) for name in (names if flattened else names[1:])]
    plan.scratch(cub.merge_sort(count, 8, 8), name="sort")
    plan.scratch(cub.unique_by_key(count, 8, gpu.capability), name="distinct indices")
    return kept


def _coalesced(plan: Plan, source: SparseMeta, gpu: GpuSpec) -> list[int]:
    """The same inside another op, of a matrix; its indices are taken to be different."""
    if source.coalesced or source.values.shape[0] < 2:
        return []
    kept = _sorted(plan, source, gpu, flattened=True)
    parts = [plan.temporary(part.nbytes, "coalesced") for part in (source.values, source.indices)]
    plan.release(*reversed(kept))
    return parts


def _mm(call: Call, gpu: GpuSpec, version: Version) -> Steps:
    """`mm(self, mat2)`, one of them sparse, which becomes `_sparse_addmm` of zeros; with the sparse one behind, all is
    transposed."""
    plan = Plan(call)
    if isinstance(call.args[0], SparseMeta):
        plan.temporary(call.outputs[0].nbytes, "zeros")
        plan.output(0)
        _product(plan, call.args[0], call.args[1], call.outputs[0], gpu)
        return plan.steps()
    sparse = _flipped(plan, call.args[1])
    plan.temporary(call.outputs[0].nbytes, "zeros")
    plan.output(0)
    _product(plan, sparse, _transposed(call.args[0]), call.outputs[0], gpu)
    return plan.steps()


def _mv(call: Call, gpu: GpuSpec, version: Version) -> Steps:
    """`mv(self, vec)`: a product with a matrix of one column."""
    plan, vector = Plan(call), call.args[1]
    plan.temporary(call.outputs[0].nbytes, "zeros")
    plan.output(0)
    column = vector._replace(shape=(*vector.shape, 1), stride=(*vector.stride, 1))
    _product(plan, call.args[0], column, call.outputs[0], gpu)
    return plan.steps()


def _addmm(call: Call, gpu: GpuSpec, version: Version) -> Steps:
    """`_sparse_addmm(self, mat1, mat2)`."""
    plan = Plan(call)
    plan.output(0)
    _product(plan, call.args[1], call.args[2], call.outputs[0], gpu)
    return plan.steps()


def _product(plan: Plan, sparse: SparseMeta, dense: TensorMeta, out: TensorMeta, gpu: GpuSpec) -> None:
    """cuSPARSE is given rows compressed and indices of 32 bits, and a result whose columns lie in one piece."""
    coalesced, entries = _coalesced(plan, sparse, gpu), sparse.values.shape[0]
    rows = plan.temporary(4 * (sparse.shape[0] + 1), "compressed rows")
    plan.scratch(4 * entries, name="rows of 32 bits")
    columns = plan.temporary(4 * entries, "columns of 32 bits")
    result = plan.temporary(out.nbytes, "result by columns")
    if entries:
        operand = -1 if _in_one_piece(dense) else plan.temporary(dense.nbytes, "contiguous operand")
        plan.scratch(4 * ceil_div(entries, _ENTRIES) + _BESIDE, name="cuSPARSE workspace")
        plan.release(operand)
    plan.release(result, columns, rows, *reversed(coalesced))


def _in_one_piece(dense: TensorMeta) -> bool:
    (rows, columns), (down, across) = dense.shape, dense.stride
    by_columns = down == 1 and across == rows
    return by_columns or (across == 1 and down != columns) or dense.is_contiguous


def _transposed(dense: TensorMeta) -> TensorMeta:
    return dense._replace(shape=dense.shape[::-1], stride=dense.stride[::-1])


def _flipped(plan: Plan, source: SparseMeta) -> SparseMeta:
    """A sparse one transposed is a copy, whose rows change places; nobody knows any more that it is coalesced."""
    plan.temporary(source.values.nbytes, "transposed")
    plan.temporary(source.indices.nbytes, "transposed")
    plan.scratch(source.indices.nbytes // source.indices.shape[0], name="row of indices")
    return source._replace(coalesced=False, shape=source.shape[::-1])


def _transpose(call: Call, gpu: GpuSpec, version: Version) -> Steps:
    """`transpose(self, dim0, dim1)`: values, indices, and a row of these that changes its place."""
    plan, indices = Plan(call), call.args[0].indices
    plan.output(1)
    plan.output(0)
    plan.scratch(indices.nbytes // indices.shape[0], name="row of indices")
    return plan.steps()


def _to_dense(call: Call, gpu: GpuSpec, version: Version) -> Steps:
    """`_to_dense(self)`: zeros, to which the sparse one is added."""
    plan, source = Plan(call), call.args[0]
    plan.output(0)
    if not source.coalesced:
        plan.scratch(8 * source.values.shape[0], name="flattened indices")
    return plan.steps()


def _sparse_mask(call: Call, gpu: GpuSpec, version: Version) -> Steps:
    """`sparse_mask(self, mask)`: a one, the rows picked out, then indices and values of the result."""
    plan, values = Plan(call), call.args[1].values
    plan.temporary(values.itemsize, "one")
    plan.temporary(values.nbytes, "rows of the mask")
    plan.outputs()
    return plan.steps()


def _to_sparse(call: Call, gpu: GpuSpec, version: Version) -> Steps | None:
    """`_to_sparse(self)`: places of what is not 0, copied with the dimensions first, and what is found there, twice
    (`dense_to_sparse` of TensorConversions.cpp). Recorded for four shapes in float32; not with dense dimensions."""
    plan, source = Plan(call), call.args[0]
    if len(call.outputs) != 2 or len(call.outputs[1].shape) != 1:
        return None
    indices, values = call.outputs
    held = nonzero_scratch(plan, source, gpu)
    places = plan.temporary(indices.nbytes, "places of what is not 0")
    select_scratch(plan, source, held, gpu)
    plan.output(0)
    found = plan.temporary(values.nbytes, "what is there")
    plan.output(1)
    plan.release(found, places)
    return plan.steps()


_ENTRIES, _BESIDE = 256, 7
"""cuSPARSE's workspace (`CUSPARSE_SPMM_CSR_ALG1`) is a number of 32 bits for each 256 entries, and one more up to
alignment: read off 14 of 16 products in fp32 and fp64; with a single column it is less."""

RULES = {"_to_sparse": _to_sparse}

OF_SPARSE = {
    "_coalesce": _coalesce,
    "_sparse_addmm": _addmm,
    "_to_dense": _to_dense,
    "mm": _mm,
    "mv": _mv,
    "sparse_mask": _sparse_mask,
    "t": _transpose,
    "transpose": _transpose,
}
"""Rules of calls with a sparse tensor among their arguments, by the op's name."""

_PLAIN = """
_coalesced_ _dimI _dimV _indices _nnz _to_copy _values abs add add_ alias clone copy_sparse_to_sparse_ dense_dim detach
div indices is_coalesced mul neg pow relu resize_as_sparse_ sparse_dim sqrt values zero_ zeros_like
"""

PLAIN_OF_SPARSE = frozenset(_PLAIN.split())
"""Those that take nothing but their outputs' indices and values."""
