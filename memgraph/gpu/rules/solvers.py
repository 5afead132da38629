"""What PyTorch does around the solvers of linear algebra: which library is asked, and what for.

Sources: aten/src/ATen/native/cuda/linalg/BatchLinearAlgebra.cpp (who is asked: `lu_factor`, `lu_solve_kernel`,
`triangular_solve_kernel`, `geqrf_kernel`), BatchLinearAlgebraLib.cpp (buffers of cuSOLVER's, arrays of pointers of
cuBLAS's); MAGMA keeps its pointers in host memory. Measured: `benchmarks/single_ops`.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable

from memgraph.gpu.call import Call, Steps, TensorMeta
from memgraph.gpu.rules import cusolver
from memgraph.gpu.rules.cusolver import Work
from memgraph.gpu.rules.layout import Plan, permuted
from memgraph.gpu.spec import GpuSpec

Version = tuple[int, int]
Rule = Callable[[Call, GpuSpec, Version], "Steps | None"]
POINTER = 8
INFO = 4
INDEX = 8
POINTERS = "cuBLAS array of pointers"


def unless_empty(rule: Rule) -> Rule:
    """Matrices of no elements are asked of nobody."""

    @functools.wraps(rule)
    def answer(call: Call, gpu: GpuSpec, version: Version) -> Steps | None:
        return rule(call, gpu, version) if call.args[0].numel else ()

    return answer


def batch(tensor: TensorMeta) -> int:
    """Matrices in a tensor."""
    return math.prod(tensor.shape[:-2])


def by_columns(tensor: TensorMeta) -> bool:
    """Whether the columns lie one after the other."""
    rank = len(tensor.shape)
    return permuted(tensor, (*range(rank - 2), rank - 1, rank - 2)).is_contiguous


def work(plan: Plan, needed: Work, times: int = 1) -> None:
    """A buffer of cuSOLVER's, taken and given back for each matrix."""
    for _ in range(times):
        plan.scratch(needed.size, name=needed.name)


def pointers(plan: Plan, matrices: int, arrays: int) -> None:
    """cuBLAS's arrays of pointers to the matrices of a batch."""
    plan.scratch(*[matrices * POINTER] * arrays, name=POINTERS)


def with_info(plan: Plan, needed: Work, times: int = 1) -> None:
    """The same with one number that says how it went."""
    info = plan.temporary(INFO, "how it went")
    work(plan, needed, times)
    plan.release(info)


def check(plan: Plan, matrices: int) -> None:
    """`_linalg_check_errors`: `infos.any()`, which of one number is a copy of it as a flag."""
    plan.scratch(*[1, 1] if matrices == 1 else [1], name="whether any failed")


def lu_factor(plan: Plan, matrices: int, rows: int, columns: int) -> None:
    """cuSOLVER for one square matrix, cuBLAS for batches of small ones, MAGMA for the rest."""
    few = rows <= 16 or (rows <= 128 and matrices <= 16)
    if rows == columns and matrices == 1:
        work(plan, cusolver.lu(rows))
    elif rows == columns and few:
        pointers(plan, matrices, 1)


def lu_solve(plan: Plan, matrices: int, n: int, right: int, itemsize: int, *, adjoint: bool) -> None:
    """With `n` rows and `right` columns on the right-hand side."""
    if n <= 8 and n != right and right >= 256 and right <= 1024 and not adjoint:
        return  # MAGMA
    if _by_triangles(matrices, n, right, adjoint):
        _two_triangles(plan, matrices, n, right * itemsize, adjoint)
    elif n > 8 and n != right and matrices <= 2:
        plan.scratch(INFO, name="how it went")
    else:
        pointers(plan, matrices, 2)


def _by_triangles(matrices: int, n: int, right: int, adjoint: bool) -> bool:
    if n == right:
        return n > 16
    if n <= 8:
        return False
    if n <= 64:
        return right > 8 and not (matrices <= 2 and (right <= 64 or adjoint or n <= 32))
    return n > 128 or right > 2


def _two_triangles(plan: Plan, matrices: int, n: int, row: int, adjoint: bool) -> None:
    """`lu_solve_triangular`: the pivots as a permutation, and for the other direction its inverse."""
    order = permutation(plan, matrices, n)
    if adjoint:
        triangles(plan, matrices, n, times=2)
        plan.release(plan.temporary(matrices * n * row, "right-hand side"), order)
        return
    ones = plan.temporary(n * INDEX, "rows in order")
    inverse = plan.temporary(matrices * n * INDEX, "permutation, inverse")
    source = plan.temporary(matrices * n * row, "right-hand side, permuted")
    triangles(plan, matrices, n, times=2)
    plan.release(source, inverse, ones, order)


def permutation(plan: Plan, matrices: int, n: int) -> int:
    """`arange(n).expand(…).contiguous()`."""
    order = plan.temporary(n * INDEX, "permutation")
    if matrices == 1:
        return order
    whole = plan.temporary(matrices * n * INDEX, "permutation")
    plan.release(order)
    return whole


def triangles(plan: Plan, matrices: int, n: int, times: int = 1) -> None:
    """`triangular_solve_kernel`: one matrix after the other where they are large and few."""
    if matrices > 8 or n < 64:
        for _ in range(times):
            pointers(plan, matrices, 2)


def qr_in_one_go(rows: int, matrices: int) -> bool:
    """Whether cuBLAS factors a batch at once."""
    return rows <= 256 and matrices >= max(2, rows // 16)


def geqrf(plan: Plan, matrices: int, rows: int, columns: int, itemsize: int) -> None:
    if qr_in_one_go(rows, matrices):
        pointers(plan, matrices, 2)
    else:
        with_info(plan, cusolver.qr(columns, itemsize), matrices)
