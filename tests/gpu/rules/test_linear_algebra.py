"""Linear algebra as one H200 did it (torch 2.11, CUDA 13.0): requests and frees in order, in bytes."""

from __future__ import annotations

import pytest

from memgraph.gpu.rules import cusolver
from tests.gpu.workspace_calls import new, run, told

F64 = {"dtype": "float64"}
CHECK_ONE = [1, 1, "free 1", "free 0"]


@pytest.mark.parametrize(("n", "size"), [(8, 160), (100, 192), (256, 384), (1000, 4224), (2048, 16512)])
def test_cholesky_has_a_table_of_tiles(n: int, size: int) -> None:
    """128 + 16 (n / 64)² bytes: for 1,000 rows 128 + 16 * 16 * 16 = 4,224."""
    assert cusolver.cholesky(n).size == size
    found = run("linalg_cholesky_ex", new(n, n), out=(new(n, n), new(dtype="int32")))
    assert told(found) == ["out 0", "out 1", size, "free 0"]


@pytest.mark.parametrize(
    ("n", "size"), [(32, 12436), (64, 29000), (100, 61152), (128, 86800), (256, 301088), (512, 1124416)]
)
def test_eigenvalues_in_single_precision_by_jacobi(n: int, size: int) -> None:
    """Elements, for 100: 100² + 100 + 1024 * 5 + 4 * 4² + 4 = 15,288."""
    assert cusolver.eigenvalues(n, 4) == (size, True)


@pytest.mark.parametrize(
    ("rows", "columns", "wanted", "size"),
    [(8, 8, 8, 3968), (100, 100, 100, 117632), (1000, 1000, 1000, 8286848), (512, 128, 128, 3146368),
     (2000, 100, 100, 3357056), (2000, 100, 2000, 7255808), (100, 512, 100, 3351168)],
)  # fmt: skip
def test_singular_values_by_jacobi_after_a_qr(rows: int, columns: int, wanted: int, size: int) -> None:
    assert cusolver.singular_values(rows, columns, 4, wanted=wanted).size == size
    assert cusolver.singular_values(rows, columns, 8, wanted=wanted).size == 2 * size


@pytest.mark.parametrize(
    ("rows", "columns", "reflectors", "size"),
    [(40, 10, 10, 133760), (100, 100, 100, 186624), (2000, 2000, 100, 2466560), (2048, 2048, 2048, 3212288)],
)
def test_q_is_made_in_blocks_of_128(rows: int, columns: int, reflectors: int, size: int) -> None:
    assert cusolver.orthogonal(rows, columns, reflectors, 4).size == size


def test_q_is_applied() -> None:
    """lstsq of 512 x 100 and 32 right-hand sides, and `ormqr` from the right."""
    assert cusolver.apply_orthogonal(512, 32, 100, 4).size == 1097984
    assert cusolver.apply_orthogonal(7, 100, 30, 4, left=False).size == 286080


def test_solving_for_one_matrix_goes_through_two_triangles() -> None:
    """n = 64, 100 right-hand sides: LU's pivots of 1,280 bytes, then rows in int64, their inverse, and the right-hand
    side permuted, 64 * 100 * 4."""
    out = (new(64, 100), new(64, 64), new(64, dtype="int32"), new(dtype="int32"))
    found = told(run("_linalg_solve_ex", new(64, 64), new(64, 100), out=out))
    assert found == [
        *[f"out {i}" for i in range(4)], 1280, "free 0", 512, 512, 512, 25600, *[f"free {i}" for i in (4, 3, 2, 1)],
    ]  # fmt: skip


def test_small_batches_are_cublas_s_and_large_ones_magma_s() -> None:
    """Pointers to 16 matrices take 128 bytes; MAGMA's lie in host memory."""
    small, large = (new(16, n, n) for n in (64, 512))
    pivots = [new(16, n, dtype="int32") for n in (64, 512)]
    info = new(16, dtype="int32")
    assert told(run("linalg_lu_factor_ex", small, out=(small, pivots[0], info)))[3:] == [128, "free 0"]
    assert told(run("linalg_lu_factor_ex", large, out=(large, pivots[1], info)))[3:] == []


@pytest.mark.parametrize(
    ("n", "size"), [(32, 768), (64, 1280), (96, 2048), (129, 3584), (300, 6912), (513, 8704), (1024, 12544)]
)
def test_pivots_of_lu_are_kept_by_halves(n: int, size: int) -> None:
    """For 300: 256 + 16 * 256 + 8 * 320."""
    assert cusolver.lu(n) == (size, True)


@pytest.mark.parametrize(("n", "size"), [(768, 9959308), (1000, 16640076), (2048, 68281228), (4096, 270648204)])
def test_eigenvalues_of_large_matrices_are_divided_and_conquered(n: int, size: int) -> None:
    assert cusolver.eigenvalues(n, 4) == (size, True)
    assert cusolver.eigenvalues(n, 8) == (2 * size - 128, True)


def test_errors_are_looked_for() -> None:
    assert told(run("_linalg_check_errors", new(dtype="int32"), "inv")) == CHECK_ONE
    assert told(run("_linalg_check_errors", new(4, dtype="int32"), "inv")) == [1, "free 0"]


def test_a_triangle_that_blas_reads_is_not_copied() -> None:
    """Up to eight matrices of 64 rows and more are solved one by one."""
    assert told(run("linalg_solve_triangular", new(64, 64), new(64, 8), out=new(64, 8))) == ["out 0"]
    assert told(run("linalg_solve_triangular", new(16, 64, 64), new(16, 64, 8), out=new(16, 64, 8))) == [
        "out 0", 128, 128, "free 1", "free 0",
    ]  # fmt: skip


def test_what_is_not_known_is_said() -> None:
    a = new(512, 128)
    out = (a, new(128), new(128, 128))
    assert run("_linalg_svd", a, False, True, out=out, driver="gesvda") is None
    assert cusolver.lu(1000).name == "cuSOLVER workspace"
    assert cusolver.lu(2000).name == "cuSOLVER workspace (estimate)"
    assert run("linalg_qr", new(0, 4), out=()) == ()
