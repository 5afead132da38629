"""Triton kernels launched from Python on the virtual GPU: they take what their caller allocates."""

from __future__ import annotations

import pytest
import torch

import memgraph

triton = pytest.importorskip("triton")
import triton.language as tl  # noqa: E402

M = 2**20


@triton.jit
def add_one(x, o, n, B: tl.constexpr = 128):  # type: ignore[no-untyped-def]  # noqa: N803
    i = tl.program_id(0) * B + tl.arange(0, B)
    tl.store(o + i, tl.load(x + i, mask=i < n) + 1, mask=i < n)


CONFIGS = [triton.Config({"B": 256}, num_warps=4), triton.Config({"B": 1024}, num_warps=8)]


def peak() -> int:
    return int(torch.cuda.memory_stats()["requested_bytes.all.peak"])


def test_a_launch_takes_nothing() -> None:
    grids = []
    with memgraph.virtual_gpu("rtx3090"):
        x, o = torch.zeros(M, device="cuda"), torch.empty(M, device="cuda")
        add_one[(1,)](x, o, M, B=1024)
        add_one[lambda meta: grids.append((meta["n"], meta["B"])) or (1,)](x, o, M, num_warps=8)  # type: ignore[func-returns-value]
        assert peak() == 2 * 4 * M
    assert grids == [(M, 128)]


def test_an_autotuned_one_takes_the_buffer_that_flushes_the_cache_once() -> None:
    tuned = triton.autotune(configs=CONFIGS, key=["n"])(add_one)
    with memgraph.virtual_gpu("rtx3090"):
        x, o = torch.zeros(M, device="cuda"), torch.empty(M, device="cuda")
        tuned[lambda meta: (triton.cdiv(M, meta["B"]),)](x, o, M)
        assert peak() == 2 * 4 * M + 256 * M
        torch.cuda.reset_peak_memory_stats()
        tuned[lambda meta: (triton.cdiv(M, meta["B"]),)](x, o, M)
        assert peak() == 2 * 4 * M


def test_what_a_tuner_restores_is_copied() -> None:
    tuned = triton.autotune(configs=CONFIGS, key=["n"], restore_value=["o"])(add_one)
    with memgraph.virtual_gpu("rtx3090"):
        x, o = torch.zeros(M, device="cuda"), torch.empty(M, device="cuda")
        tuned[lambda meta: (triton.cdiv(M, meta["B"]),)](x, o, M)
        assert peak() == 2 * 4 * M + 256 * M + 4 * M


def test_one_configuration_is_not_timed_and_heuristics_are_asked() -> None:
    asked = []
    tuned = triton.autotune(configs=CONFIGS[:1], key=["n"])(add_one)
    chosen = triton.heuristics({"B": lambda args: asked.append(args["n"]) or 64})(add_one)  # type: ignore[func-returns-value]
    with memgraph.virtual_gpu("rtx3090"):
        x, o = torch.zeros(M, device="cuda"), torch.empty(M, device="cuda")
        tuned[(1,)](x, o, M)
        chosen[(1,)](x, o, M)
        assert peak() == 2 * 4 * M
    assert asked == [M]


def test_in_an_autograd_function() -> None:
    class AddOne(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):  # type: ignore[no-untyped-def]
            o = torch.empty_like(x)
            add_one[(1,)](x, o, x.numel(), B=1024)
            return o

        @staticmethod
        def backward(ctx, gradient):  # type: ignore[no-untyped-def]
            return gradient * 1

    with memgraph.virtual_gpu("rtx3090"):
        x = torch.zeros(M, device="cuda", requires_grad=True)
        AddOne.apply(x).sum().backward()
        assert x.grad is not None and x.grad.shape == (M,)


def test_triton_knows_the_card_and_what_was_there_is_back() -> None:
    from triton.runtime import driver

    run = triton.JITFunction.run
    with memgraph.virtual_gpu("h100"):
        assert driver.active.get_current_target().arch == 90
        assert (
            driver.active.utils.get_device_properties(0)["multiprocessor_count"]
            == torch.cuda.get_device_properties(0).multi_processor_count
        )
        assert triton.testing.do_bench(lambda: None) == 1.0
        kernel = add_one.warmup(torch.zeros(1, device="cuda"), torch.zeros(1, device="cuda"), 1, B=64, grid=(1,))
        assert kernel.n_regs > 0 < kernel.metadata.shared
    assert triton.JITFunction.run is run
    assert driver._active is None
