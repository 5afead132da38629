"""Attention, recurrent layers, norms, pooling, sorting, indexing: as `record.py` runs them."""

import torch
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel

bf16, fp32, fp16 = torch.bfloat16, torch.float32, torch.float16


def _r(*shape, dtype=fp32, grad=False):
    return torch.randn(*shape, device="cuda", dtype=dtype, requires_grad=grad)


def _i(high, *shape):
    return torch.randint(0, high, shape, device="cuda")


def _attention(shape, kv, dtype, mask, causal, backend, dropout, backward, gqa=False):
    def prepare():
        q, k, v = (_r(*s, dtype=dtype, grad=True) for s in (shape, kv, kv))
        bias = None if mask is None else (torch.zeros(*mask, device="cuda", dtype=dtype))

        def forward():
            kernels = (
                [backend]
                if backend is not None
                else [
                    SDPBackend.CUDNN_ATTENTION,
                    SDPBackend.FLASH_ATTENTION,
                    SDPBackend.EFFICIENT_ATTENTION,
                    SDPBackend.MATH,
                ]
            )
            with sdpa_kernel(kernels, set_priority=backend is None):
                return F.scaled_dot_product_attention(q, k, v, bias, dropout, causal, enable_gqa=gqa)

        def default():
            return F.scaled_dot_product_attention(q, k, v, bias, dropout, causal, enable_gqa=gqa)

        run = default if backend is None else forward
        if not backward:
            return run
        out = run()
        grad = torch.randn_like(out)
        return lambda: torch.autograd.grad(out, (q, k, v), grad, retain_graph=True)

    return prepare


def _attention_cases():
    square = (4, 8, 256, 64)
    named = {
        "default": None,
        "flash": SDPBackend.FLASH_ATTENTION,
        "efficient": SDPBackend.EFFICIENT_ATTENTION,
        "cudnn": SDPBackend.CUDNN_ATTENTION,
        "math": SDPBackend.MATH,
    }
    variants = {
        "plain": (square, square, bf16, None, False, 0.0, False), "causal": (square, square, bf16, None, True, 0.0, False),
        "odd": ((2, 5, 333, 64), (2, 5, 333, 64), bf16, None, False, 0.0, False), "d128": ((2, 8, 512, 128), (2, 8, 512, 128), bf16, None, True, 0.0, False),
        "d80": ((2, 8, 100, 80), (2, 8, 100, 80), fp16, None, False, 0.0, False), "d36": ((2, 8, 100, 36), (2, 8, 100, 36), bf16, None, False, 0.0, False),
        "d256": ((2, 4, 128, 256), (2, 4, 128, 256), bf16, None, False, 0.0, False), "fp32": (square, square, fp32, None, False, 0.0, False),
        "fp32causal": (square, square, fp32, None, True, 0.0, False), "dropout": (square, square, bf16, None, False, 0.1, False),
        "mask": (square, square, bf16, (4, 1, 1, 256), False, 0.0, False), "mask_full": (square, square, bf16, (4, 8, 256, 256), False, 0.0, False),
        "mask_odd": ((2, 5, 333, 64), (2, 5, 333, 64), bf16, (2, 1, 333, 333), False, 0.0, False), "mask_causal": (square, square, bf16, (4, 1, 1, 256), True, 0.0, False),
        "cross": ((4, 8, 100, 64), (4, 8, 77, 64), bf16, None, False, 0.0, False), "gqa": ((2, 16, 512, 64), (2, 4, 512, 64), bf16, None, True, 0.0, True),
        "decode": ((4, 8, 1, 64), (4, 8, 2048, 64), bf16, None, False, 0.0, False), "long": ((1, 8, 4096, 64), (1, 8, 4096, 64), bf16, None, True, 0.0, False),
        "fp32mask": (square, square, fp32, (4, 1, 256, 256), False, 0.0, False), "maskgrid8": ((2, 4, 100, 64), (2, 4, 100, 64), fp16, (2, 1, 100, 100), False, 0.0, False),
    }  # fmt: skip
    for backend, kernel in named.items():
        for name, (shape, kv, dtype, mask, causal, dropout, gqa) in variants.items():
            for backward in (False, True):
                yield (
                    f"sdpa {backend} {name} {'backward' if backward else 'forward'}",
                    _attention(shape, kv, dtype, mask, causal, kernel, dropout, backward, gqa),
                )


def _module(build, *inputs, backward=False):
    def prepare():
        module = build().cuda()
        xs = [x() for x in inputs]
        if not backward:
            return lambda: module(*xs)
        out = module(*xs)
        out = out[0] if isinstance(out, tuple) else out
        grad = torch.randn_like(out)
        wanted = [p for p in module.parameters()] + [x for x in xs if x.requires_grad]
        return lambda: torch.autograd.grad(out, wanted, grad, retain_graph=True, allow_unused=True)

    return prepare


def _module_cases():
    nn = torch.nn
    layers = {}
    for kind in ("LSTM", "GRU", "RNN"):
        for name, (i, h, l, b, t, bi, dt) in {
            "small": (64, 128, 1, 16, 50, False, fp32), "deep": (128, 256, 2, 32, 100, False, fp32), "bi": (128, 256, 2, 32, 100, True, fp32),
            "bf16": (128, 256, 2, 32, 100, False, bf16), "odd": (37, 61, 3, 5, 17, False, fp32), "wide": (512, 1024, 1, 64, 35, False, fp32),
        }.items():  # fmt: skip
            layers[f"{kind} {name}"] = (
                lambda kind=kind, i=i, h=h, l=l, bi=bi, dt=dt: getattr(nn, kind)(
                    i, h, l, bidirectional=bi, batch_first=True, dtype=dt
                ),
                lambda i=i, b=b, t=t, dt=dt: _r(b, t, i, dtype=dt, grad=True),
            )
    for dt in (fp32, bf16):
        x4 = lambda dt=dt: _r(32, 64, 56, 56, dtype=dt, grad=True)
        layers |= {
            f"BatchNorm2d {dt}": (lambda: nn.BatchNorm2d(64), x4), f"BatchNorm2d small {dt}": (lambda: nn.BatchNorm2d(512), lambda dt=dt: _r(4, 512, 7, 7, dtype=dt, grad=True)),
            f"BatchNorm1d {dt}": (lambda: nn.BatchNorm1d(256), lambda dt=dt: _r(512, 256, dtype=dt, grad=True)),
            f"BatchNorm2d nhwc {dt}": (lambda: nn.BatchNorm2d(64), lambda dt=dt: _r(32, 64, 56, 56, dtype=dt).to(memory_format=torch.channels_last).requires_grad_()),
            f"BatchNorm2d eval {dt}": (lambda: nn.BatchNorm2d(64).eval(), x4),
            f"GroupNorm {dt}": (lambda dt=dt: nn.GroupNorm(8, 64, dtype=dt), x4), f"GroupNorm big {dt}": (lambda dt=dt: nn.GroupNorm(32, 320, dtype=dt), lambda dt=dt: _r(4, 320, 64, 64, dtype=dt, grad=True)),
            f"InstanceNorm2d {dt}": (lambda dt=dt: nn.InstanceNorm2d(64, affine=True, dtype=dt), x4), f"LayerNorm tall {dt}": (lambda dt=dt: nn.LayerNorm(64, dtype=dt), lambda dt=dt: _r(65536, 64, dtype=dt, grad=True)),
            f"LayerNorm wide {dt}": (lambda dt=dt: nn.LayerNorm(4096, dtype=dt), lambda dt=dt: _r(64, 4096, dtype=dt, grad=True)), f"LayerNorm gpt {dt}": (lambda dt=dt: nn.LayerNorm(768, dtype=dt), lambda dt=dt: _r(8, 1024, 768, dtype=dt, grad=True)),
            f"RMSNorm {dt}": (lambda dt=dt: nn.RMSNorm(768, dtype=dt), lambda dt=dt: _r(8, 1024, 768, dtype=dt, grad=True)), f"RMSNorm tall {dt}": (lambda dt=dt: nn.RMSNorm(64, dtype=dt), lambda dt=dt: _r(65536, 64, dtype=dt, grad=True)),
            f"MaxPool2d {dt}": (lambda: nn.MaxPool2d(3, 2, 1), x4), f"AvgPool2d {dt}": (lambda: nn.AvgPool2d(2), x4), f"AdaptiveAvgPool2d {dt}": (lambda: nn.AdaptiveAvgPool2d(1), x4),
            f"AdaptiveAvgPool2d 7 {dt}": (lambda: nn.AdaptiveAvgPool2d(7), x4), f"AdaptiveMaxPool2d {dt}": (lambda: nn.AdaptiveMaxPool2d(7), x4),
            f"Upsample bilinear {dt}": (lambda: nn.Upsample(scale_factor=2, mode="bilinear"), x4), f"Upsample nearest {dt}": (lambda: nn.Upsample(scale_factor=2), x4), f"Upsample bicubic {dt}": (lambda: nn.Upsample(scale_factor=2, mode="bicubic"), x4),
            f"PReLU {dt}": (lambda dt=dt: nn.PReLU(64, dtype=dt), x4), f"GLU {dt}": (lambda: nn.GLU(1), x4), f"Dropout {dt}": (lambda: nn.Dropout(0.1), x4), f"PixelShuffle {dt}": (lambda: nn.PixelShuffle(2), x4),
            f"ConvTranspose2d {dt}": (lambda dt=dt: nn.ConvTranspose2d(64, 32, 2, 2, dtype=dt), x4), f"Conv1d {dt}": (lambda dt=dt: nn.Conv1d(80, 384, 3, padding=1, dtype=dt), lambda dt=dt: _r(8, 80, 3000, dtype=dt, grad=True)),
            f"Linear {dt}": (lambda dt=dt: nn.Linear(768, 3072, dtype=dt), lambda dt=dt: _r(8, 512, 768, dtype=dt, grad=True)), f"Bilinear {dt}": (lambda dt=dt: nn.Bilinear(64, 64, 32, dtype=dt), lambda dt=dt: _r(128, 64, dtype=dt, grad=True), lambda dt=dt: _r(128, 64, dtype=dt, grad=True)),
        }  # fmt: skip
    layers |= {
        "Embedding": (lambda: nn.Embedding(50000, 512), lambda: _i(50000, 8, 512)), "Embedding tiny": (lambda: nn.Embedding(100, 64), lambda: _i(100, 16, 20)), "Embedding padded": (lambda: nn.Embedding(5000, 128, padding_idx=0), lambda: _i(5000, 64, 100)),
        "Embedding scaled": (lambda: nn.Embedding(5000, 128, scale_grad_by_freq=True), lambda: _i(5000, 64, 100)), "EmbeddingBag": (lambda: nn.EmbeddingBag(5000, 128), lambda: _i(5000, 64, 100)), "EmbeddingBag max": (lambda: nn.EmbeddingBag(5000, 128, mode="max"), lambda: _i(5000, 64, 100)),
    }  # fmt: skip
    for name, (build, *inputs) in layers.items():
        yield f"{name} forward", _module(build, *inputs)
        yield f"{name} backward", _module(build, *inputs, backward=True)


def _op_cases():
    x = lambda *s, **k: lambda: _r(*s, **k)
    simple = {
        "sum all": (torch.sum, x(4096, 4096)), "sum 0": (lambda a: a.sum(0), x(8192, 512)), "sum 1": (lambda a: a.sum(1), x(8192, 512)), "mean all bf16": (torch.mean, x(4096, 4096, dtype=bf16)), "norm": (lambda a: torch.linalg.vector_norm(a), x(4096, 4096)),
        "max 1": (lambda a: a.max(1), x(4096, 512)), "argmax all": (torch.argmax, x(1024, 1024)), "std": (lambda a: a.std(0), x(8192, 512)), "var_mean": (lambda a: torch.var_mean(a, 1), x(1024, 4096)), "logsumexp": (lambda a: a.logsumexp(1), x(1024, 4096)),
        "any": (lambda a: (a > 5).any(), x(1024, 1024)), "isnan any": (lambda a: a.isnan().any(), x(1024, 1024)), "prod": (lambda a: a.prod(0), x(512, 512)), "amax": (lambda a: a.amax((0, 2)), x(32, 64, 512)),
        "sort": (lambda a: a.sort(-1), x(64, 4096)), "sort long": (lambda a: a.sort(-1), x(1 << 20)), "sort small": (lambda a: a.sort(-1), x(64, 100)), "argsort stable": (lambda a: a.argsort(stable=True), x(100000)), "topk": (lambda a: a.topk(8, -1), x(4096, 64)), "topk wide": (lambda a: a.topk(50, -1), x(8, 50000)),
        "cumsum": (lambda a: a.cumsum(-1), x(64, 4096)), "cumsum long": (lambda a: a.cumsum(0), x(1 << 20)), "cumsum int": (lambda a: (a > 0).cumsum(0), x(4096, 8)), "cumprod": (lambda a: a.cumprod(0), x(1 << 16)), "cummax": (lambda a: a.cummax(0), x(1000, 10)),
        "nonzero": (lambda a: (a > 0).nonzero(), x(1024, 1024)), "masked_select": (lambda a: a[a > 0], x(1024, 1024)), "masked_fill": (lambda a: a.masked_fill(a > 0, 0), x(1024, 1024)), "where": (lambda a: torch.where(a > 0, a, 0.0), x(1024, 1024)), "unique": (lambda a: (a * 10).long().unique(), x(4096)),
        "unique inverse": (lambda a: (a * 10).long().unique(return_inverse=True, return_counts=True), x(4096)), "multinomial": (lambda a: a.softmax(-1).multinomial(1), x(64, 5000)), "multinomial many": (lambda a: a.softmax(-1).multinomial(10), x(64, 5000)), "randperm": (lambda a: torch.randperm(10000, device="cuda"), x(1)), "randperm small": (lambda a: torch.randperm(100, device="cuda"), x(1)),
        "median": (lambda a: a.median(-1), x(64, 1000)), "kthvalue": (lambda a: a.kthvalue(5), x(64, 1000)), "histc": (lambda a: a.histc(100), x(10000)), "bincount": (lambda a: (a.abs() * 10).long().bincount(minlength=64), x(10000)), "searchsorted": (lambda a: torch.searchsorted(a.sort().values, a), x(1000)),
        "softmax": (lambda a: a.softmax(-1), x(4096, 512)), "softmax dim0": (lambda a: a.softmax(0), x(4096, 512)), "log_softmax": (lambda a: a.log_softmax(-1), x(512, 50000, dtype=bf16)), "roll": (lambda a: a.roll(1, 1), x(64, 512)), "flip": (lambda a: a.flip(0), x(64, 512)), "tril": (lambda a: a.tril(), x(512, 512)), "cdist": (lambda a: torch.cdist(a, a), x(512, 64)),
        "einsum": (lambda a: torch.einsum("bij,bkj->bik", a, a), x(8, 128, 64)), "bmm": (lambda a: a @ a.transpose(1, 2), x(64, 256, 64, dtype=bf16)), "baddbmm": (lambda a: torch.baddbmm(a @ a.mT, a, a.mT), x(8, 128, 64)), "mv": (lambda a: a @ a[0], x(512, 512)), "fft": (lambda a: torch.fft.rfft(a), x(64, 1024)), "cholesky": (lambda a: torch.linalg.cholesky(a @ a.mT + 600 * torch.eye(128, device="cuda")), x(128, 128)),
        "clip_grad": (lambda *a: torch._foreach_norm(list(a)), *[x(1000, n) for n in (3, 500, 1024)]), "cat many": (lambda a: torch.cat([a] * 200), x(8, 8)), "stack": (lambda a: torch.stack([a] * 4), x(64, 64)), "pad reflect": (lambda a: F.pad(a, (1, 1, 1, 1), mode="reflect"), x(4, 3, 64, 64)), "pad": (lambda a: F.pad(a, (1, 1)), x(64, 64)), "grid_sample": (lambda a: F.grid_sample(a, torch.zeros(4, 8, 8, 2, device="cuda"), align_corners=False), x(4, 3, 64, 64)),
        "unfold": (lambda a: F.unfold(a, 3), x(4, 3, 64, 64)), "to cpu half": (lambda a: a.to("cpu", torch.float16), x(1000, 1000)), "to cpu t": (lambda a: a.t().to("cpu"), x(1000, 500)), "nan_to_num": (torch.nan_to_num, x(64, 64)), "one_hot": (lambda a: F.one_hot(_i(10, 64), 10), x(1)),
    }  # fmt: skip
    for name, (call, *inputs) in simple.items():
        yield name, (lambda call=call, inputs=inputs: (lambda xs: lambda: call(*xs))([make() for make in inputs]))
    ids, table = (lambda: _i(1000, 8, 50)), (lambda: _r(1000, 64))
    indexed = {
        "index_select": (lambda i, t: t.index_select(0, i.flatten()), ids, table), "index": (lambda i, t: t[i], ids, table), "gather": (lambda i, t: t.gather(0, i.flatten()[:, None].expand(-1, 64)), ids, table), "scatter_add": (lambda i, t: t.scatter_add(0, i.flatten()[:, None].expand(-1, 64), _r(400, 64)), ids, table),
        "index_add": (lambda i, t: t.index_add(0, i.flatten(), _r(400, 64)), ids, table), "index_put": (lambda i, t: t.index_put((i.flatten(),), _r(400, 64)), ids, table), "index_put accumulate": (lambda i, t: t.index_put((i.flatten(),), _r(400, 64), accumulate=True), ids, table), "index_copy": (lambda i, t: t.index_copy(0, torch.arange(400, device="cuda"), _r(400, 64)), ids, table),
        "take_along_dim": (lambda i, t: t.take_along_dim(i.flatten()[:, None].expand(-1, 64), 0), ids, table), "repeat_interleave": (lambda i, t: t.repeat_interleave(i.flatten() % 3, 0) if False else torch.repeat_interleave(i.flatten() % 3), ids, table), "cross_entropy": (lambda i, t: F.cross_entropy(_r(400, 1000), i.flatten()), ids, table), "cross_entropy smooth": (lambda i, t: F.cross_entropy(_r(400, 1000), i.flatten(), label_smoothing=0.1), ids, table),
        "cross_entropy 2d": (lambda i, t: F.cross_entropy(_r(8, 1000, 50), i), ids, table), "nll weight": (lambda i, t: F.nll_loss(_r(400, 1000), i.flatten(), weight=_r(1000)), ids, table), "kl": (lambda i, t: F.kl_div(_r(400, 100), _r(400, 100), reduction="batchmean"), ids, table), "ctc": (lambda i, t: F.ctc_loss(_r(50, 8, 30).log_softmax(-1), torch.randint(1, 30, (8, 10), device="cuda"), torch.full((8,), 50), torch.full((8,), 10)), ids, table),
        "mse": (lambda i, t: F.mse_loss(t, t + 1), ids, table), "huber": (lambda i, t: F.huber_loss(t, t + 1), ids, table), "bce": (lambda i, t: F.binary_cross_entropy_with_logits(t, t), ids, table), "cosine": (lambda i, t: F.cosine_similarity(t, t), ids, table),
    }  # fmt: skip
    for name, (call, *inputs) in indexed.items():
        yield name, (lambda call=call, inputs=inputs: (lambda xs: lambda: call(*xs))([make() for make in inputs]))


def cases():
    yield from _attention_cases()
    yield from _module_cases()
    yield from _op_cases()
