"""LU and Cholesky factors, what is solved with them, determinants and inverses.

Sources: aten/src/ATen/native/BatchLinearAlgebra.cpp, LinearAlgebra.cpp (`_linalg_det_out`, `lu_det_P`), and those of
`solvers.py`.
"""

from __future__ import annotations

from memgraph.gpu.call import Call, Steps, TensorMeta
from memgraph.gpu.rules import cusolver
from memgraph.gpu.rules.layout import Plan
from memgraph.gpu.rules.solvers import (
    INDEX,
    INFO,
    Rule,
    Version,
    batch,
    by_columns,
    check,
    lu_factor,
    lu_solve,
    permutation,
    pointers,
    triangles,
    unless_empty,
    with_info,
    work,
)
from memgraph.gpu.spec import GpuSpec

_PIVOT = 4


def _check_errors(call: Call, gpu: GpuSpec, version: Version) -> Steps:
    plan = Plan(call)
    check(plan, call.args[0].numel)
    return plan.steps()


def _lu_factor_ex(call: Call, gpu: GpuSpec, version: Version) -> Steps:
    plan, source = Plan(call), call.args[0]
    plan.outputs()
    lu_factor(plan, batch(source), *source.shape[-2:])
    return plan.steps()


def _lu(call: Call, gpu: GpuSpec, version: Version) -> Steps:
    """L or U is where the factors go, by rows; so cuSOLVER's lie beside, by columns."""
    plan, source = Plan(call), call.args[0]
    rows, columns = source.shape[-2:]
    plan.outputs()
    factors = plan.temporary(source.nbytes, "both factors")
    pivots = plan.temporary(batch(source) * min(rows, columns) * _PIVOT, "pivots")
    info = plan.temporary(batch(source) * INFO, "how it went")
    lu_factor(plan, batch(source), rows, columns)
    plan.release(factors)
    plan.release(permutation(plan, batch(source), rows), info, pivots)
    return plan.steps()


def _lu_unpack(call: Call, gpu: GpuSpec, version: Version) -> Steps:
    plan, factors = Plan(call), call.args[0]
    plan.outputs()
    if call.arg(3, "unpack_pivots", True):
        permutation(plan, batch(factors), factors.shape[-2])
    return plan.steps()


def _lu_solve(call: Call, gpu: GpuSpec, version: Version) -> Steps:
    """`linalg_lu_solve(LU, pivots, B, *, left, adjoint)`."""
    plan, (factors, _, right) = Plan(call), call.args[:3]
    plan.outputs()
    if not by_columns(factors):
        plan.temporary(factors.nbytes, "factors by columns")
    left, adjoint = call.kwargs.get("left", True), call.kwargs.get("adjoint", False)
    _solve(plan, right, factors, left=left, adjoint=adjoint != (not left))
    return plan.steps()


def _solve(plan: Plan, right: TensorMeta, factors: TensorMeta, *, left: bool, adjoint: bool) -> None:
    columns = right.shape[-1 if left else -2]
    lu_solve(plan, batch(right), factors.shape[-1], columns, right.itemsize, adjoint=adjoint)


def _solve_ex(call: Call, gpu: GpuSpec, version: Version) -> Steps:
    """`_linalg_solve_ex(A, B, *, left, check_errors)`: a vector is solved for as a matrix beside it."""
    plan, (source, right) = Plan(call), call.args[:2]
    left = call.kwargs.get("left", True)
    plan.outputs()
    lu_factor(plan, batch(source), *source.shape[-2:])
    if len(right.shape) == 1 or (len(source.shape) - 1 == len(right.shape) and right.shape == source.shape[:-1]):
        plan.temporary(right.nbytes, "solution as a column")
        right = right._replace(shape=(*right.shape, 1), stride=(*right.stride, 1))
    _solve(plan, right, source, left=left, adjoint=not left)
    return plan.steps()


def _inv_ex(call: Call, gpu: GpuSpec, version: Version) -> Steps:
    """The identity is solved for."""
    plan, source = Plan(call), call.args[0]
    n = source.shape[-1]
    plan.outputs()
    plan.temporary(source.nbytes, "LU factors")
    plan.temporary(batch(source) * n * _PIVOT, "pivots")
    lu_factor(plan, batch(source), n, n)
    lu_solve(plan, batch(source), n, n, source.itemsize, adjoint=False)
    return plan.steps()


def _det(call: Call, gpu: GpuSpec, version: Version) -> Steps:
    """Outputs are the determinant, LU and pivots."""
    plan, source = Plan(call), call.args[0]
    matrices, n = batch(source), source.shape[-1]
    plan.outputs()
    info = plan.temporary(matrices * INFO, "how it went")
    lu_factor(plan, matrices, n, n)
    product = plan.temporary(matrices * source.itemsize, "product of the diagonal")
    sign = _sign_of_pivots(plan, matrices, n)
    plan.release(sign, product, info)
    return plan.steps()


def _slogdet(call: Call, gpu: GpuSpec, version: Version) -> Steps:
    """Outputs are sign, logarithm, LU and pivots."""
    plan, source = Plan(call), call.args[0]
    matrices, n = batch(source), source.shape[-1]
    diagonal = matrices * n * source.itemsize
    plan.outputs()
    info = plan.temporary(matrices * INFO, "how it went")
    lu_factor(plan, matrices, n, n)
    sign = _sign_of_pivots(plan, matrices, n)
    signs = plan.temporary(diagonal, "signs of the diagonal")
    plan.release(plan.temporary(matrices * source.itemsize, "their product"), signs, sign)
    plan.scratch(diagonal, name="logarithms of the diagonal")
    plan.release(info)
    return plan.steps()


def _sign_of_pivots(plan: Plan, matrices: int, n: int) -> int:
    """`lu_det_P`: rows in order, which pivots differ, and their number in int64, which stays."""
    rows = plan.temporary(n * _PIVOT, "rows in order")
    moved = plan.temporary(matrices * n, "rows that moved")
    number = plan.temporary(matrices * INDEX, "how many moved")
    plan.scratch(matrices * n * INDEX, name="rows that moved, in int64")
    plan.release(moved, rows)
    return number


def _cholesky_ex(call: Call, gpu: GpuSpec, version: Version) -> Steps:
    plan, source = Plan(call), call.args[0]
    plan.outputs()
    _factor(plan, source)
    return plan.steps()


def _cholesky(call: Call, gpu: GpuSpec, version: Version) -> Steps:
    """The older op, which checks by itself."""
    plan, source = Plan(call), call.args[0]
    plan.outputs()
    info = plan.temporary(batch(source) * INFO, "how it went")
    _factor(plan, source)
    check(plan, batch(source))
    plan.release(info)
    return plan.steps()


def _factor(plan: Plan, source: TensorMeta) -> None:
    if batch(source) > 1:
        pointers(plan, batch(source), 1)
    else:
        work(plan, cusolver.cholesky(source.shape[-1]))


def _cholesky_solve(call: Call, gpu: GpuSpec, version: Version) -> Steps:
    """`cholesky_solve(self, A, upper)`: cuSOLVER for one, MAGMA for more."""
    plan, factor = Plan(call), call.args[1]
    if batch(call.args[0]) == 1:
        plan.temporary(INFO, "how it went")
    plan.outputs()
    plan.temporary(factor.nbytes, "factor by columns")
    return plan.steps()


def _cholesky_inverse(call: Call, gpu: GpuSpec, version: Version) -> Steps:
    plan, factor = Plan(call), call.args[0]
    plan.outputs()
    copy = plan.temporary(factor.nbytes, "factor by columns")
    if batch(factor) == 1:
        plan.scratch(INFO, name="how it went")
    plan.release(copy)
    return plan.steps()


def _ldl_factor_ex(call: Call, gpu: GpuSpec, version: Version) -> Steps:
    plan, source = Plan(call), call.args[0]
    plan.outputs()
    work(plan, cusolver.indefinite(source.shape[-1], source.itemsize))
    return plan.steps()


def _solve_triangular(call: Call, gpu: GpuSpec, version: Version) -> Steps:
    """`linalg_solve_triangular(A, B, *, upper, left, unitriangular)`: a matrix that BLAS cannot read is copied."""
    plan, source = Plan(call), call.args[0]
    plan.outputs()
    matrices = batch(call.outputs[0]) if call.outputs else batch(source)
    repeated = batch(source) != matrices
    if repeated or not (source.is_contiguous or by_columns(source)):
        plan.temporary(matrices * source.shape[-1] ** 2 * source.itemsize, "matrix in a row")
    triangles(plan, matrices, source.shape[-1])
    return plan.steps()


def _triangular_solve(call: Call, gpu: GpuSpec, version: Version) -> Steps:
    """The older op, which returns a copy of the matrix too."""
    plan, source = Plan(call), call.args[1]
    plan.outputs()
    triangles(plan, batch(call.args[0]), source.shape[-1])
    return plan.steps()


def _householder(call: Call, gpu: GpuSpec, version: Version) -> Steps:
    """`linalg_householder_product(input, tau)`."""
    plan, (source, tau) = Plan(call), call.args[:2]
    rows, columns = source.shape[-2:]
    plan.outputs()
    with_info(plan, cusolver.orthogonal(rows, columns, tau.shape[-1], source.itemsize), batch(source))
    return plan.steps()


def _ormqr(call: Call, gpu: GpuSpec, version: Version) -> Steps:
    """`ormqr(self, tau, other, left, transpose)`."""
    plan, (source, tau, other), left = Plan(call), call.args[:3], call.arg(3, "left", True)
    plan.outputs()
    if not by_columns(source):
        plan.temporary(source.nbytes, "reflectors by columns")
    rows, columns = other.shape[-2:]
    needed = cusolver.apply_orthogonal(rows, columns, tau.shape[-1], source.itemsize, left=left)
    with_info(plan, needed, batch(other))
    return plan.steps()


_RULES: dict[str, Rule] = {
    "_linalg_check_errors": _check_errors,
    "linalg_lu_factor_ex": _lu_factor_ex,
    "linalg_lu": _lu,
    "lu_unpack": _lu_unpack,
    "linalg_lu_solve": _lu_solve,
    "_linalg_solve_ex": _solve_ex,
    "linalg_inv_ex": _inv_ex,
    "_linalg_det": _det,
    "_linalg_slogdet": _slogdet,
    "linalg_cholesky_ex": _cholesky_ex,
    "cholesky": _cholesky,
    "cholesky_solve": _cholesky_solve,
    "_cholesky_solve_helper": _cholesky_solve,
    "cholesky_inverse": _cholesky_inverse,
    "linalg_ldl_factor_ex": _ldl_factor_ex,
    "linalg_solve_triangular": _solve_triangular,
    "triangular_solve": _triangular_solve,
    "linalg_householder_product": _householder,
    "ormqr": _ormqr,
}
RULES = {name: unless_empty(rule) for name, rule in _RULES.items()}
