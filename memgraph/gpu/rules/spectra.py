"""Eigenvalues, singular values, QR and least squares.

Sources: aten/src/ATen/native/BatchLinearAlgebra.cpp (`_linalg_eigh_out`, `_linalg_svd_out`, `linalg_qr_out`,
`linalg_lstsq_out`, `linalg_eig_out`), cuda/linalg/BatchLinearAlgebraLib.cpp (`linalg_eigh_cusolver`, `svd_cusolver`),
and those of `solvers.py`.
"""

from __future__ import annotations

from memgraph.gpu.call import Call, Steps, TensorMeta
from memgraph.gpu.rules import cusolver
from memgraph.gpu.rules.layout import Plan
from memgraph.gpu.rules.solvers import (
    INFO,
    Rule,
    Version,
    batch,
    check,
    geqrf,
    pointers,
    qr_in_one_go,
    triangles,
    unless_empty,
    with_info,
    work,
)
from memgraph.gpu.spec import GpuSpec

_SMALL = 32
"""Rows and columns up to which a batch is served at once."""


def _eigh(call: Call, gpu: GpuSpec, version: Version) -> Steps:
    """`_linalg_eigh(A, UPLO, compute_v)`: the vectors, where they are not wanted a temporary, then the values."""
    plan, source = Plan(call), call.args[0]
    matrices, n = batch(source), source.shape[-1]
    if call.arg(2, "compute_v", True):
        plan.output(1)
        plan.output(0)
    else:
        plan.output(0)
        plan.temporary(source.nbytes, "matrix by columns")
    info = plan.temporary(matrices * INFO, "how it went")
    at_once = matrices if n <= _SMALL else 1
    work(plan, cusolver.eigenvalues(n, source.itemsize, at_once), matrices // at_once)
    check(plan, matrices)
    plan.release(info)
    return plan.steps()


def _svd(call: Call, gpu: GpuSpec, version: Version) -> Steps | None:
    """`_linalg_svd(A, full_matrices, compute_uv, *, driver)`. What `gesvda` takes, and `gesvd` of matrices that are not
    square, is not known."""
    plan, source = Plan(call), call.args[0]
    rows, columns = source.shape[-2:]
    driver = call.kwargs.get("driver") or "gesvdj"
    if driver == "gesvda" or (driver == "gesvd" and rows != columns):
        return None
    wanted = max(rows, columns) if call.arg(1, "full_matrices", False) else min(rows, columns)
    vectors = call.arg(2, "compute_uv", True)
    for output in (0, 2, 1) if vectors else (0,):
        plan.output(output)
    info = plan.temporary(batch(source) * INFO, "how it went")
    copy = plan.temporary(source.nbytes, "matrix by columns")
    if driver == "gesvd":
        _by_gesvd(plan, columns, source.itemsize)
    else:
        unwanted = () if vectors else _unwanted_vectors(plan, source)
        work(plan, cusolver.singular_values(rows, columns, source.itemsize, wanted=wanted))
        plan.release(*unwanted)
    plan.release(copy)
    check(plan, batch(source))
    plan.release(info)
    return plan.steps()


def _by_gesvd(plan: Plan, n: int, itemsize: int) -> None:
    """Its buffer, room for what did not converge, and the transposed right vectors."""
    needed = cusolver.bidiagonal(n, itemsize)
    buffer = plan.temporary(needed.size, needed.name)
    rest = plan.temporary(n * itemsize, "what did not converge")
    plan.release(plan.temporary(n * n * itemsize, "right vectors, transposed"), rest, buffer)


def _unwanted_vectors(plan: Plan, source: TensorMeta) -> tuple[int, int]:
    """cuSOLVER wants room for them: for all of a batch that it serves at once, else for one matrix."""
    rows, columns = source.shape[-2:]
    matrices = batch(source) if max(rows, columns) <= _SMALL else 1
    size = matrices * min(rows, columns) * source.itemsize
    left = plan.temporary(rows * size, "left vectors")
    return plan.temporary(columns * size, "right vectors"), left


def _qr(call: Call, gpu: GpuSpec, version: Version) -> Steps:
    """`linalg_qr(A, mode)`: reflectors go where Q or R will be, if they fit."""
    plan, source, mode = Plan(call), call.args[0], call.arg(1, "mode", "reduced")
    rows, columns = source.shape[-2:]
    short = min(rows, columns)
    plan.outputs()
    plan.temporary(batch(source) * short * source.itemsize, "scales of the reflectors")
    if mode == "r" and rows > columns:
        plan.temporary(source.nbytes, "reflectors")
    geqrf(plan, batch(source), rows, columns, source.itemsize)
    if mode != "r":
        wide = rows if mode == "complete" else short
        with_info(plan, cusolver.orthogonal(rows, wide, short, source.itemsize), batch(source))
    return plan.steps()


def _geqrf(call: Call, gpu: GpuSpec, version: Version) -> Steps:
    plan, source = Plan(call), call.args[0]
    rows, columns = source.shape[-2:]
    plan.outputs()
    geqrf(plan, batch(source), rows, columns, source.itemsize)
    return plan.steps()


def _lstsq(call: Call, gpu: GpuSpec, version: Version) -> Steps | None:
    """`linalg_lstsq(self, b, …)`: R x = Qᵀ b; cuBLAS has all of it for batches. A wide one is not known."""
    plan, (source, other) = Plan(call), call.args[:2]
    rows, columns = source.shape[-2:]
    if rows < columns or not call.outputs:
        return None
    is_vector = len(other.shape) == 1 or other.shape == source.shape[:-1]
    matrices, right = batch(source), 1 if is_vector else other.shape[-1]
    info = plan.temporary(matrices * INFO, "how it went")
    plan.output(0)
    copy = plan.temporary(source.nbytes, "matrix by columns")
    if qr_in_one_go(rows, matrices):
        again = plan.temporary(source.nbytes, "matrix that is overwritten")
        pointers(plan, matrices, 2)
        plan.release(again)
    else:
        _by_qr(plan, source, matrices, right)
    plan.outputs(1)
    plan.release(copy)
    check(plan, matrices)
    plan.release(info)
    return plan.steps()


def _by_qr(plan: Plan, source: TensorMeta, matrices: int, right: int) -> None:
    """`linalg_lstsq_gels`."""
    rows, columns = source.shape[-2:]
    scales = plan.temporary(batch(source) * columns * source.itemsize, "scales of the reflectors")
    geqrf(plan, batch(source), rows, columns, source.itemsize)
    with_info(plan, cusolver.apply_orthogonal(rows, right, columns, source.itemsize), matrices)
    triangles(plan, matrices, columns)
    plan.release(scales)


def _eig(call: Call, gpu: GpuSpec, version: Version) -> Steps | None:
    """`linalg_eig(self)` of real matrices: each number is asked whether it is finite, and real and imaginary parts,
    which cuSOLVER keeps apart, are put together."""
    plan, source = Plan(call), call.args[0]
    if source.dtype.startswith("complex"):
        return None
    matrices, n = batch(source), source.shape[-1]
    _all_finite(plan, source)
    info = plan.temporary(matrices * INFO, "how it went")
    plan.output(1)
    values = 2 * matrices * n * source.itemsize
    parts = plan.temporary(values, "values as real numbers")
    plan.output(0)
    vectors = plan.temporary(source.nbytes, "vectors as real numbers")
    copy = plan.temporary(source.nbytes, "matrix by columns")
    work(plan, cusolver.general_eigenvalues(n, source.itemsize))
    plan.release(copy)
    flags = plan.temporary(matrices * n, "which are complex")
    plan.scratch(1, name="whether any is")
    plan.release(flags, vectors, parts)
    plan.scratch(values, 2 * source.nbytes, name="values and vectors put together")
    check(plan, matrices)
    plan.release(info)
    return plan.steps()


def _all_finite(plan: Plan, source: TensorMeta) -> None:
    """`isfinite(input).all()`: |x| and three rounds of flags."""
    size = plan.temporary(source.nbytes, "absolute values")
    first, second, finite = [plan.temporary(source.numel, "flags") for _ in range(3)]
    plan.release(second, first, size)
    plan.scratch(1, name="whether all are finite")
    plan.release(finite)


_RULES: dict[str, Rule] = {
    "_linalg_eigh": _eigh,
    "_linalg_svd": _svd,
    "linalg_eig": _eig,
    "linalg_qr": _qr,
    "geqrf": _geqrf,
    "linalg_lstsq": _lstsq,
}
RULES = {name: unless_empty(rule) for name, rule in _RULES.items()}
