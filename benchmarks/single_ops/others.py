"""Ops whose inner needs were not known, or only read in the sources."""

from __future__ import annotations

import torch
import torch.nn.functional as F

from benchmarks.single_ops.registry import CASES, D, bf16, f32, make, train

# Others whose inner needs are not known, or only read in the sources.


def plain(name, build):
    CASES[name] = build


def _one(call, *shapes, dtype=f32):
    def build():
        tensors = [make(s, dtype) for s in shapes]
        return lambda: call(*tensors)

    return build


N = 100_000
plain("histc", _one(lambda x: torch.histc(x, 64, -3, 3), (N,)))
plain("histc open range", _one(lambda x: torch.histc(x, 64), (N,)))
plain("histc many bins", _one(lambda x: torch.histc(x, 100_000, -3, 3), (N,)))
for tests in (4, 16, 100, 5000):
    plain(
        f"isin {tests}",
        lambda tests=tests: (
            lambda a=torch.randint(0, 99, (N,), device=D), b=torch.randint(0, 99, (tests,), device=D): (
                lambda: torch.isin(a, b)
            )
        )(),
    )
plain("isin scalar", lambda: (lambda a=torch.randint(0, 99, (N,), device=D): lambda: torch.isin(a, 3))())
for size in (1000, N, 1_000_000):
    plain(
        f"bincount {size}",
        lambda size=size: (
            lambda a=torch.randint(0, 99, (size,), device=D): lambda: torch.bincount(a, minlength=128)
        )(),
    )
    plain(
        f"bincount weighted {size}",
        lambda size=size: (
            lambda a=torch.randint(0, 99, (size,), device=D), w=torch.ones(size, device=D): (
                lambda: torch.bincount(a, w, 128)
            )
        )(),
    )
    plain(f"median {size}", _one(torch.median, (size,)))
    plain(
        f"unique {size}",
        lambda size=size: (lambda a=torch.randint(0, 99, (size,), device=D): lambda: torch.unique(a))(),
    )
    plain(
        f"unique inverse counts {size}",
        lambda size=size: (
            lambda a=torch.randint(0, 99, (size,), device=D): (
                lambda: torch.unique(a, return_inverse=True, return_counts=True)
            )
        )(),
    )
    plain(
        f"unique_consecutive {size}",
        lambda size=size: (lambda a=torch.randint(0, 99, (size,), device=D): lambda: torch.unique_consecutive(a))(),
    )
    plain(f"cumsum {size}", _one(lambda x: x.cumsum(0), (size,)))
    plain(f"cumsum half {size}", _one(lambda x: x.cumsum(0), (size,), dtype=bf16))
    plain(
        f"mode {size}",
        lambda size=size: (lambda a=torch.randint(0, 99, (size // 100, 100), device=D): lambda: torch.mode(a))(),
    )
    plain(f"randperm {size}", lambda size=size: lambda: torch.randperm(size, device=D))
plain("unique dim", lambda: (lambda a=torch.randint(0, 3, (1000, 8), device=D): lambda: torch.unique(a, dim=0))())
plain("mode long rows", lambda: (lambda a=torch.randint(0, 99, (4, 20_000), device=D): lambda: torch.mode(a))())
plain("median dim", _one(lambda x: x.median(1), (100, 1000)))
plain("nanmedian", _one(torch.nanmedian, (N,)))
plain("quantile", _one(lambda x: torch.quantile(x, 0.5), (N,)))
plain("multinomial", lambda: (lambda a=torch.rand(64, 1000, device=D): lambda: torch.multinomial(a, 4))())
plain(
    "multinomial replacement",
    lambda: (lambda a=torch.rand(64, 1000, device=D): lambda: torch.multinomial(a, 4, replacement=True))(),
)
plain("multinomial one", lambda: (lambda a=torch.rand(64, 50_257, device=D): lambda: torch.multinomial(a, 1))())
plain("renorm", _one(lambda x: torch.renorm(x, 2, 0, 1.0), (512, 300)))
plain("trace", _one(torch.trace, (512, 512)))
plain("dist", _one(torch.dist, (N,), (N,)))
plain("addr", _one(torch.addr, (300, 200), (300,), (200,)))
plain("addbmm", _one(torch.addbmm, (30, 20), (8, 30, 40), (8, 40, 20)))
plain("cross", _one(torch.linalg.cross, (1000, 3), (1000, 3)))
plain(
    "put",
    lambda: (lambda x=make((1000,)), i=torch.randint(0, 1000, (500,), device=D), v=make((500,)): lambda: x.put(i, v))(),
)
plain(
    "put accumulate",
    lambda: (
        lambda x=make((1000,)), i=torch.randint(0, 1000, (500,), device=D), v=make((500,)): (
            lambda: x.put(i, v, accumulate=True)
        )
    )(),
)
plain(
    "index_reduce",
    lambda: (
        lambda x=make((1000, 8)), i=torch.randint(0, 1000, (500,), device=D), v=make((500, 8)): (
            lambda: x.index_reduce(0, i, v, "prod")
        )
    )(),
)
plain(
    "scatter_reduce mean",
    lambda: (
        lambda x=make((1000,)), i=torch.randint(0, 1000, (500,), device=D), v=make((500,)): (
            lambda: x.scatter_reduce(0, i, v, "mean")
        )
    )(),
)
plain(
    "scatter_reduce mean without self",
    lambda: (
        lambda x=make((1000,)), i=torch.randint(0, 1000, (500,), device=D), v=make((500,)): (
            lambda: x.scatter_reduce(0, i, v, "mean", include_self=False)
        )
    )(),
)
plain("pdist", lambda: (lambda x=make((200, 30), grad=True): train(lambda: F.pdist(x), x))())
plain(
    "cdist",
    lambda: (
        lambda x=make((200, 30), grad=True), y=make((100, 30), grad=True): train(lambda: torch.cdist(x, y), x, y)
    )(),
)
plain(
    "cdist p1",
    lambda: (
        lambda x=make((200, 30), grad=True), y=make((100, 30), grad=True): train(lambda: torch.cdist(x, y, p=1), x, y)
    )(),
)
plain(
    "bilinear",
    lambda: (
        lambda m=torch.nn.Bilinear(20, 30, 40, device=D), x=make((128, 20), grad=True), y=make((128, 30), grad=True): (
            train(lambda: m(x, y), x, y)
        )
    )(),
)
plain(
    "affine_grid",
    lambda: (
        lambda t=make((4, 2, 3), grad=True): train(lambda: F.affine_grid(t, [4, 3, 32, 32], align_corners=False), t)
    )(),
)
plain(
    "grid_sample 3d",
    lambda: (
        lambda x=make((2, 3, 8, 16, 16), grad=True), g=make((2, 8, 8, 8, 3), grad=True): train(
            lambda: F.grid_sample(x, g, align_corners=False), x, g
        )
    )(),
)
plain(
    "fractional_max_pool2d",
    lambda: (
        lambda x=make((2, 3, 32, 32), grad=True): train(lambda: F.fractional_max_pool2d(x, 2, output_size=(10, 10)), x)
    )(),
)
plain(
    "fractional_max_pool3d",
    lambda: (
        lambda x=make((2, 3, 16, 16, 16), grad=True): train(
            lambda: F.fractional_max_pool3d(x, 2, output_size=(7, 7, 7)), x
        )
    )(),
)
plain(
    "adaptive_max_pool3d",
    lambda: (lambda x=make((2, 3, 16, 16, 16), grad=True): train(lambda: F.adaptive_max_pool3d(x, 7), x))(),
)
plain(
    "max_unpool2d",
    lambda: (lambda p=F.max_pool2d(make((2, 3, 32, 32)), 2, return_indices=True): lambda: F.max_unpool2d(*p, 2))(),
)
plain(
    "multi_margin_loss",
    lambda: (
        lambda x=make((64, 100), grad=True), t=torch.randint(0, 100, (64,), device=D): train(
            lambda: F.multi_margin_loss(x, t), x
        )
    )(),
)
plain(
    "multilabel_margin_loss",
    lambda: (
        lambda x=make((64, 100), grad=True), t=torch.zeros(64, 100, dtype=torch.long, device=D): train(
            lambda: F.multilabel_margin_loss(x, t), x
        )
    )(),
)
plain(
    "soft_margin_loss",
    lambda: (
        lambda x=make((64, 100), grad=True), t=torch.ones(64, 100, device=D): train(lambda: F.soft_margin_loss(x, t), x)
    )(),
)
plain(
    "binary_cross_entropy",
    lambda: (
        lambda x=torch.rand(64, 100, device=D, requires_grad=True), t=torch.ones(64, 100, device=D): train(
            lambda: F.binary_cross_entropy(x, t), x
        )
    )(),
)
plain(
    "segment_reduce",
    lambda: (
        lambda x=make((1000, 8), grad=True), n=torch.full((100,), 10, device=D): train(
            lambda: torch.segment_reduce(x, "mean", lengths=n, unsafe=True), x
        )
    )(),
)
plain("channel_shuffle", _one(lambda x: F.channel_shuffle(x, 4), (2, 16, 32, 32)))
plain("block_diag", _one(lambda *x: torch.block_diag(*x), (30, 30), (20, 40)))
plain("rot90", _one(lambda x: torch.rot90(x), (30, 40)))
plain(
    "cov weights", lambda: (lambda x=make((30, 400)), w=torch.rand(400, device=D): lambda: torch.cov(x, aweights=w))()
)
plain("to_sparse", lambda: (lambda x=torch.eye(300, device=D): lambda: x.to_sparse())())
plain(
    "fake_quantize tensor",
    lambda: (
        lambda x=make((300, 200), grad=True): train(
            lambda: torch.fake_quantize_per_tensor_affine(x, 0.1, 0, -128, 127), x
        )
    )(),
)
plain(
    "fake_quantize channel",
    lambda: (
        lambda x=make((300, 200), grad=True), s=torch.ones(300, device=D), z=torch.zeros(300, device=D, dtype=torch.int32): (
            train(lambda: torch.fake_quantize_per_channel_affine(x, s, z, 0, -128, 127), x)
        )
    )(),
)
plain(
    "fused_moving_avg_obs_fake_quant",
    lambda: (
        lambda x=make((300, 200), grad=True), one=torch.ones(1, device=D, dtype=torch.long), lo=torch.zeros(1, device=D), hi=torch.ones(1, device=D), s=torch.ones(1, device=D), z=torch.zeros(1, device=D, dtype=torch.int32): (
            train(lambda: torch.fused_moving_avg_obs_fake_quant(x, one, one, lo, hi, s, z, 0.01, -128, 127, 0), x)
        )
    )(),
)
plain("rrelu", lambda: (lambda x=make((300, 200), grad=True): train(lambda: F.rrelu(x, training=True), x))())
plain("logcumsumexp", _one(lambda x: x.logcumsumexp(0), (N,)))
plain(
    "searchsorted int32",
    lambda: (lambda s=torch.arange(1000.0, device=D), v=make((N,)): lambda: torch.searchsorted(s, v, out_int32=True))(),
)
plain("argsort stable", _one(lambda x: x.argsort(stable=True), (100, 5000)))
plain("float8 cast", _one(lambda x: x.to(torch.float8_e4m3fn), (512, 512), dtype=bf16))
plain(
    "grouped conv1d",
    lambda: (
        lambda c=torch.nn.Conv1d(64, 64, 3, groups=64, device=D), x=make((8, 64, 500), grad=True): train(
            lambda: c(x), x
        )
    )(),
)
