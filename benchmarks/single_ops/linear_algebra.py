"""Linear algebra: solvers, factors, spectra, and their gradients."""

from __future__ import annotations

import torch

from benchmarks.single_ops.registry import case, f32, make, spd, square_op, train

SQUARES = (
    (8, 8),
    (32, 32),
    (100, 100),
    (128, 128),
    (256, 256),
    (512, 512),
    (1000, 1000),
    (2048, 2048),
    (4, 16, 16),
    (2, 100, 100),
    (16, 64, 64),
    (8, 512, 512),
    (300, 8, 8),
)
TALL = ((40, 10), (100, 30), (512, 128), (1024, 1024), (2000, 100), (100, 512), (16, 64, 32), (4, 300, 200))

L = torch.linalg
square_op("eigh", L.eigh, source=spd, shapes=SQUARES)
square_op("eigvalsh", L.eigvalsh, source=spd, dtypes=(f32,), shapes=SQUARES)
square_op("inv", L.inv, source=spd, shapes=SQUARES)
square_op("cholesky", L.cholesky, source=spd, shapes=SQUARES)
square_op("cholesky_inverse", lambda a: torch.cholesky_inverse(a), source=spd, dtypes=(f32,), shapes=SQUARES)
square_op("det", L.det, dtypes=(f32,), shapes=SQUARES)
square_op("slogdet", L.slogdet, dtypes=(f32,), shapes=SQUARES)
square_op("lu_factor", L.lu_factor, shapes=SQUARES)
square_op("lu", L.lu, dtypes=(f32,), shapes=SQUARES)
square_op("matrix_exp", L.matrix_exp, shapes=((32, 32), (100, 100), (512, 512), (16, 64, 64)), dtypes=(f32,))
square_op("eig", L.eig, shapes=((32, 32), (100, 100), (256, 256), (4, 16, 16)), dtypes=(f32,))
square_op("pinv", L.pinv, shapes=TALL, dtypes=(f32,))
square_op("svd reduced", lambda a: L.svd(a, full_matrices=False), shapes=TALL + SQUARES)
square_op("svd full", lambda a: L.svd(a), shapes=TALL, dtypes=(f32,))
square_op("svdvals", L.svdvals, shapes=TALL + SQUARES, dtypes=(f32,))
for driver in ("gesvd", "gesvdj", "gesvda"):
    square_op(
        f"svd {driver}",
        lambda a, d=driver: L.svd(a, full_matrices=False, driver=d),
        shapes=((512, 128), (1024, 1024), (16, 64, 32), (100, 30)),
        dtypes=(f32,),
    )
square_op("qr reduced", L.qr, shapes=TALL + SQUARES)
square_op("qr complete", lambda a: L.qr(a, mode="complete"), shapes=TALL, dtypes=(f32,))
square_op("qr r", lambda a: L.qr(a, mode="r"), shapes=TALL, dtypes=(f32,))
square_op("geqrf", torch.geqrf, shapes=TALL + SQUARES, dtypes=(f32,))
square_op("ldl_factor", L.ldl_factor, source=spd, dtypes=(f32,), shapes=SQUARES)


@case("solve", n=(8, 16, 32, 64, 100, 128, 512, 1000), right=(1, 8, 100, 512), batch=(0, 2, 16))
def solve(n, right, batch):
    shape = (batch,) if batch else ()
    a, b = spd((*shape, n, n)), make((*shape, n, right))
    return lambda: L.solve(a, b)


@case("solve vector", n=(16, 128, 512))
def solve_vector(n):
    a, b = spd((n, n)), make((n,))
    return lambda: L.solve(a, b)


@case("lu_solve", n=(16, 64, 128, 512), right=(2, 64, 512), batch=(0, 2, 16), adjoint=(False, True))
def lu_solve(n, right, batch, adjoint):
    shape = (batch,) if batch else ()
    lu, pivots = L.lu_factor(spd((*shape, n, n)))
    b = make((*shape, n, right))
    return lambda: L.lu_solve(lu, pivots, b, adjoint=adjoint)


@case("cholesky_solve", n=(16, 128, 512), right=(1, 64), batch=(0, 2, 16))
def cholesky_solve(n, right, batch):
    shape = (batch,) if batch else ()
    c, b = L.cholesky(spd((*shape, n, n))), make((*shape, n, right))
    return lambda: torch.cholesky_solve(b, c)


@case(
    "solve_triangular", n=(16, 64, 128, 1000), right=(1, 64), batch=(0, 2, 16), upper=(False, True), left=(True, False)
)
def solve_triangular(n, right, batch, upper, left):
    shape = (batch,) if batch else ()
    a = spd((*shape, n, n))
    b = make((*shape, n, right) if left else (*shape, right, n))
    return lambda: L.solve_triangular(a, b, upper=upper, left=left)


@case("lstsq", rows=(40, 512, 2000), columns=(10, 100), right=(1, 32), batch=(0, 4))
def lstsq(rows, columns, right, batch):
    shape = (batch,) if batch else ()
    a, b = make((*shape, rows, columns)), make((*shape, rows, right))
    return lambda: L.lstsq(a, b) if rows >= columns else None


@case("householder_product", shape=TALL)
def householder(shape):
    a = make((*shape[:-2], max(shape[-2:]), min(shape[-2:])))
    h, tau = torch.geqrf(a)
    return lambda: L.householder_product(h, tau)


@case("ormqr", shape=((100, 30), (512, 128), (16, 64, 32)), left=(True, False))
def ormqr(shape, left):
    h, tau = torch.geqrf(make(shape))
    rows = shape[-2]
    c = make((*shape[:-2], rows, 7) if left else (*shape[:-2], 7, rows))
    return lambda: torch.ormqr(h, tau, c, left=left)


@case(
    "training of",
    what=("eigh", "svd", "qr", "inv", "solve", "cholesky", "det", "pinv", "matrix_norm", "cond"),
    n=(32, 256),
)
def linalg_training(what, n):
    a = spd((n, n), grad=True)
    b = make((n, 8), grad=True)
    calls = {
        "eigh": lambda: L.eigh(a), "svd": lambda: L.svd(a, full_matrices=False)[1], "qr": lambda: L.qr(a), "inv": lambda: L.inv(a),
        "solve": lambda: L.solve(a, b), "cholesky": lambda: L.cholesky(a), "det": lambda: L.det(a), "pinv": lambda: L.pinv(a),
        "matrix_norm": lambda: L.matrix_norm(a, "nuc"), "cond": lambda: L.cond(a),
    }  # fmt: skip
    return train(calls[what], a, *([b] if what == "solve" else []))
