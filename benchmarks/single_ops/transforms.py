"""Fourier transforms and batch norm."""

from __future__ import annotations

import torch
import torch.nn.functional as F

from benchmarks.single_ops.registry import D, bf16, c64, case, f16, f32, make, train

# FFT.

LENGTHS = (
    (64, 4096),
    (1, 1 << 20),
    (16, 4099),
    (32, 1000),
    (8, 2 * 3 * 5 * 7 * 11),
    (128, 17),
    (4, 8192 * 3),
    (1, 999_983),
)


@case("fft", shape=LENGTHS, kind=("c2c", "rfft", "irfft", "ifft"))
def fft(shape, kind):
    x = make(shape, c64 if kind in ("c2c", "ifft", "irfft") else f32)
    return {
        "c2c": lambda: torch.fft.fft(x),
        "rfft": lambda: torch.fft.rfft(x),
        "irfft": lambda: torch.fft.irfft(x),
        "ifft": lambda: torch.fft.ifft(x),
    }[kind]


@case(
    "fftn",
    shape=((8, 256, 256), (2, 100, 300), (4, 64, 64, 64), (3, 5, 7, 33, 65)),
    kind=("fft2", "rfft2", "irfft2", "fftn", "rfftn", "irfftn"),
)
def fftn(shape, kind):
    x = make(shape, f32 if kind.startswith("r") else c64)
    return lambda: getattr(torch.fft, kind)(x)


@case("fft along the first dimension", shape=((4096, 64), (100, 100)), kind=("fft", "rfft"))
def fft_first(shape, kind):
    x = make(shape, f32 if kind == "rfft" else c64)
    return lambda: getattr(torch.fft, kind)(x, dim=0)


@case("fft in half precision", n=(1024, 4096))
def fft_half(n):
    x = torch.randn(64, n, device=D).half()
    return lambda: torch.fft.rfft(x)


@case("stft", samples=(16_000, 160_000), n=(400, 1024))
def stft(samples, n):
    x, w = make((4, samples)), torch.hann_window(n, device=D)
    return lambda: torch.stft(x, n, hop_length=n // 4, window=w, return_complex=True)


@case("istft", n=(400, 1024))
def istft(n):
    w = torch.hann_window(n, device=D)
    s = torch.stft(make((4, 16_000)), n, hop_length=n // 4, window=w, return_complex=True)
    return lambda: torch.istft(s, n, hop_length=n // 4, window=w)


@case("fft training", kind=("fft", "rfft", "fft2", "rfft2"))
def fft_training(kind):
    x = make((8, 96, 96), f32, True)
    return train(lambda: getattr(torch.fft, kind)(x).abs(), x)


# Batch norm.


@case("batch_norm", shape=((32, 64, 56, 56), (8, 256, 14, 14), (4, 16, 8, 32, 32), (64, 128, 100), (256, 512), (2, 2048, 7, 7), (1, 3, 8, 8)),
      dtype=(f32, f16, bf16), layout=("contiguous", "channels_last"), way=("training", "evaluation", "forward", "no running", "amp"))  # fmt: skip
def batch_norm(shape, dtype, layout, way):
    if layout == "channels_last" and len(shape) not in (4, 5):
        return lambda: None
    last = torch.channels_last if len(shape) == 4 else torch.channels_last_3d
    x = make(shape, dtype)
    x = (x.contiguous(memory_format=last) if layout == "channels_last" else x).detach().requires_grad_()
    parameters = f32 if way == "amp" else dtype
    w, b = (torch.ones(shape[1], device=D, dtype=parameters, requires_grad=True) for _ in range(2))
    m, v = (torch.ones(shape[1], device=D, dtype=parameters) for _ in range(2))
    if way == "no running":
        return train(lambda: F.batch_norm(x, None, None, w, b, True), x, w, b)
    if way == "evaluation":
        return train(lambda: F.batch_norm(x, m, v, w, b, False), x, w, b)
    if way == "forward":
        return lambda: F.batch_norm(x.detach(), m, v, w.detach(), b.detach(), True)
    return train(lambda: F.batch_norm(x, m, v, w, b, True), x, w, b)
