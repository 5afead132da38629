"""Grids of sizes, by which the laws of libraries' buffers were read and held out."""

from __future__ import annotations

import torch

from benchmarks.single_ops.registry import c64, case, f32, f64, make, spd, square_op

L = torch.linalg
square_op(
    "grid eigh",
    L.eigh,
    shapes=[
        (n, n)
        for n in (
            1,
            2,
            4,
            12,
            16,
            17,
            24,
            31,
            33,
            40,
            48,
            65,
            80,
            96,
            160,
            200,
            300,
            384,
            500,
            513,
            520,
            600,
            640,
            768,
            800,
            900,
            1024,
            1300,
            1536,
            1700,
            2000,
            3000,
            4096,
        )
    ],
    dtypes=(f32, f64),
    source=spd,
)
square_op(
    "grid eigh", L.eigh, shapes=[(b, n, n) for b in (2, 7, 100) for n in (4, 12, 24, 31, 32)], dtypes=(f32,), source=spd
)
square_op(
    "grid lu_factor",
    L.lu_factor,
    shapes=[
        (n, n)
        for n in (
            33,
            48,
            65,
            96,
            129,
            160,
            200,
            300,
            384,
            513,
            600,
            640,
            768,
            900,
            1024,
            1025,
            1200,
            1300,
            1500,
            1536,
            1700,
            2000,
            2500,
            3000,
            4096,
        )
    ]
    + [(512, 128), (128, 512), (2000, 100), (100, 2000), (3000, 1500)],
    dtypes=(f32, f64),
)
square_op(
    "grid householder",
    lambda a: L.qr(a),
    shapes=[(n, n) for n in (65, 72, 80, 96, 112)] + [(1000, 65), (1000, 64), (1000, 127)],
    dtypes=(f32,),
)
square_op(
    "grid svd",
    lambda a: L.svd(a, full_matrices=False),
    shapes=[
        (33, 32),
        (200, 33),
        (1000, 200),
        (2000, 200),
        (4000, 100),
        (1000, 100),
        (800, 100),
        (600, 100),
        (1000, 999),
        (1000, 500),
        (2000, 1000),
        (500, 1000),
        (100, 2000),
        (32, 2000),
        (3000, 3000),
        (640, 640),
        (700, 700),
        (3, 2000, 64),
    ],
    dtypes=(f32,),
)
square_op(
    "grid svd whole", lambda a: L.svd(a), shapes=[(2000, 200), (1000, 100), (600, 500), (1000, 500)], dtypes=(f32,)
)
for driver in ("gesvd", "gesvda"):
    square_op(
        f"grid svd {driver}",
        lambda a, d=driver: L.svd(a, full_matrices=False, driver=d),
        shapes=(
            (32, 32),
            (64, 64),
            (128, 128),
            (256, 256),
            (512, 512),
            (40, 10),
            (200, 100),
            (2000, 100),
            (1000, 500),
            (4, 128, 64),
        ),
        dtypes=(f32,),
    )
square_op("grid eig", L.eig, shapes=[(n, n) for n in (8, 33, 64, 128, 200, 300, 512, 600, 1000)], dtypes=(f32, f64))
square_op("grid ldl", L.ldl_factor, shapes=[(n, n) for n in (100, 300, 384, 400, 1000)], source=spd, dtypes=(f64,))
C = (
    17,
    37,
    127,
    131,
    257,
    299,
    512,
    1155,
    2309,
    4096,
    4097,
    6561,
    8192,
    10_000,
    15_625,
    16_384,
    32_768,
    65_536,
    100_000,
    131_072,
    262_144,
    524_288,
    10_007,
    2 * 10_007,
)
R = (
    17,
    65,
    99,
    105,
    126,
    260,
    510,
    1024,
    1155,
    2048,
    2310,
    2187,
    4618,
    8192,
    10_000,
    16_384,
    65_536,
    131_072,
    262_144,
    999,
    4099,
    10_007,
    2 * 10_007,
)


@case("grid fft", n=C, b=(1, 3))
def fft(n, b):
    x = make((b, n), c64)
    return lambda: torch.fft.fft(x)


@case("grid rfft", n=R, b=(1, 3))
def rfft(n, b):
    x = make((b, n))
    return lambda: torch.fft.rfft(x)


@case("grid irfft", n=R, b=(1, 3))
def irfft(n, b):
    x = make((b, n // 2 + 1), c64)
    return lambda: torch.fft.irfft(x, n=n)


@case("grid fft2", n=((33, 65), (128, 128), (1024, 1024), (131, 16), (4096, 16), (2000, 3000)), kind=("fft2", "rfft2"))
def fft2(n, kind):
    x = make((2, *n), f32 if kind[0] == "r" else c64)
    return lambda: getattr(torch.fft, kind)(x)


@case("grid irfft2", n=((33, 64), (128, 126), (1024, 1024), (100, 598)))
def irfft2(n):
    x = make((2, n[0], n[1] // 2 + 1), c64)
    return lambda: torch.fft.irfft2(x, s=n)


@case("grid rfft first", n=(64, 256, 1024, 2048, 4096, 1000))
def rfft_first(n):
    x = make((n, 24))
    return lambda: torch.fft.rfft(x, dim=0)
