"""Fourier transforms, by hand after SpectralOps.cpp; what cuFFT works in as one H200 had it (CUDA 13.0)."""

from __future__ import annotations

import pytest

from memgraph.gpu.rules.cufft import complex_workspace, largest_factor, padded, real_workspace
from tests.gpu.workspace_calls import allocated, new, run, strided

REAL, COMPLEX = new(8, 256, 256), new(8, 256, 256, dtype="complex64")
HALF = new(8, 256, 129, dtype="complex64")


@pytest.mark.parametrize(
    ("batch", "lengths", "size"),
    [
        (64, (4096,), 0),  # one kernel
        (8, (2310,), 0),  # 2 * 3 * 5 * 7 * 11
        (1, (2309,), 0),  # a prime within one kernel
        (3, (16384,), 0),
        (3, (32768,), 3 * 32768 * 8),  # through a second buffer
        (16, (4099,), 16 * 2 * 8640 * 8),  # a prime: padded to 2^6 * 3^3 * 5 from 2 * 4099 - 1 = 8197 on, twice
        (8, (256, 256), 0),
        (2, (2000, 3000), 2 * 2000 * 3000 * 8),
    ],
)
def test_complex_plans(batch: int, lengths: tuple[int, ...], size: int) -> None:
    assert complex_workspace(batch, lengths, 8)[0] == size


@pytest.mark.parametrize(
    ("batch", "lengths", "size"),
    [
        (64, (4096,), 0),
        (8, (2310,), 8 * 1155 * 8),  # as half as many complex numbers
        (1, (2**20,), (2**19 + 1) * 8),
        (16, (8196,), 16 * (4098 + 2 * 8640) * 8 + 2048),  # half of it is 2 * 3 * 683: padded
        (16, (4099,), 8 * (2 * 8640 + 4099) * 8 + 2048),  # two real signals are one complex one
        (8, (256, 510), 8 * 256 * 255 * 8),
    ],
)
def test_real_plans(batch: int, lengths: tuple[int, ...], size: int) -> None:
    assert real_workspace(batch, lengths, 8)[0] == size


def test_a_strided_signal_has_a_kernel_up_to_1024() -> None:
    assert real_workspace(24, (1024,), 8, strided=True) == (0, True)
    assert real_workspace(24, (2048,), 8, strided=True) == (24 * 1024 * 8, True)


def test_factors() -> None:
    assert [largest_factor(n) for n in (1, 2, 4096, 4098, 999_983)] == [1, 2, 2, 683, 999_983]
    assert [padded(n) for n in (4099, 24_575, 999_983)] == [8640, 49_152, 2_000_000]


def test_up_to_three_dimensions_of_complex_numbers_are_one_plan() -> None:
    assert allocated(run("_fft_c2c", COMPLEX, (1, 2), 0, True, out=(COMPLEX,))) == ["out 0"]


def test_four_dimensions_go_between_two_tensors() -> None:
    """First the last three into a tensor of its own, then the first into the result."""
    four = new(4, 8, 16, 32, dtype="complex64")
    size = 4 * 8 * 16 * 32 * 8
    assert allocated(run("_fft_c2c", four, (0, 1, 2, 3), 0, True, out=(four,))) == [size, "out 0"]


def test_real_signals_that_begin_with_the_first_two_dimensions_take_a_plan_for_the_last_one_first() -> None:
    """`use_optimized_cufft_path`; the second plan wants a tensor beside the result."""
    once = allocated(run("_fft_r2c", REAL, (1, 2), 0, True, out=(HALF,)))
    assert once == ["out 0"]
    twice = allocated(run("_fft_r2c", REAL, (0, 1, 2), 0, True, out=(HALF,)))
    assert twice == ["out 0", 8 * 256 * 129 * 8]


def test_what_becomes_real_again_is_a_clone_for_cufft_overwrites_it() -> None:
    assert allocated(run("_fft_c2r", HALF, (1, 2), 0, 256, out=(REAL,))) == ["out 0", 8 * 256 * 129 * 8]


def test_an_estimate_is_named_one() -> None:
    rows = new(1, 10_007, dtype="complex64")
    found = run("_fft_c2c", rows, (1,), 0, True, out=(rows,))
    assert found is not None and found[1].name == "cuFFT workspace (estimate)"  # type: ignore[union-attr]


def test_a_layout_that_cufft_cannot_read_is_copied() -> None:
    """Every other sample of the first of two batch dimensions: they do not collapse."""
    apart = strided((4, 6, 64), (6 * 128, 64, 1), dtype="complex64")
    result = new(4, 6, 64, dtype="complex64")
    assert allocated(run("_fft_c2c", apart, (2,), 0, True, out=(result,)))[:2] == ["out 0", 4 * 6 * 64 * 8]
