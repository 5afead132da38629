"""Fourier transforms, by hand after SpectralOps.cpp. What cuFFT works in is an estimate, and named as one."""

from __future__ import annotations

import pytest

from memgraph.gpu.rules.fft import workspace
from tests.gpu.workspace_calls import allocated, new, run, strided

REAL, COMPLEX = new(8, 256, 256), new(8, 256, 256, dtype="complex64")
HALF = new(8, 256, 129, dtype="complex64")
SIGNALS = 8 * 256 * 256 * 8
"""Bytes of all signals as complex numbers."""


@pytest.mark.parametrize(
    ("batch", "lengths", "size"),
    [
        (64, (4096,), 0),  # one kernel
        (64, (8192,), 64 * 8192 * 8),  # from one buffer into another
        (16, (4099,), 16 * 16384 * 8),  # a prime: padded to a power of two from 2 * 4099 - 1 = 8197 on
        (8, (256, 256), SIGNALS),
    ],
)
def test_estimates(batch: int, lengths: tuple[int, ...], size: int) -> None:
    assert workspace(batch, lengths, 8) == size


def test_up_to_three_dimensions_of_complex_numbers_are_one_plan() -> None:
    assert allocated(run("_fft_c2c", COMPLEX, (1, 2), 0, True, out=(COMPLEX,))) == ["out 0", SIGNALS]


def test_four_dimensions_go_between_two_tensors() -> None:
    """First the last three into a tensor of its own, then the first into the result."""
    four = new(4, 8, 16, 32, dtype="complex64")
    size = 4 * 8 * 16 * 32 * 8
    assert allocated(run("_fft_c2c", four, (0, 1, 2, 3), 0, True, out=(four,)))[:3] == [size, size, "out 0"]


def test_real_signals_that_begin_with_the_first_two_dimensions_take_a_plan_for_the_last_one_first() -> None:
    """`use_optimized_cufft_path`; the second plan wants a tensor beside the result."""
    once = allocated(run("_fft_r2c", REAL, (1, 2), 0, True, out=(HALF,)))
    assert once == ["out 0", SIGNALS]
    twice = allocated(run("_fft_r2c", REAL, (0, 1, 2), 0, True, out=(HALF,)))
    half = 8 * 256 * 129 * 8
    assert twice[:2] == ["out 0", half] and twice[2] == half  # the other tensor, then what the second plan works in


def test_what_becomes_real_again_is_a_clone_for_cufft_overwrites_it() -> None:
    assert allocated(run("_fft_c2r", HALF, (1, 2), 0, 256, out=(REAL,))) == ["out 0", 8 * 256 * 129 * 8, SIGNALS]


def test_a_layout_that_cufft_cannot_read_is_copied() -> None:
    """Every other sample of the first of two batch dimensions: they do not collapse."""
    apart = strided((4, 6, 64), (6 * 128, 64, 1), dtype="complex64")
    result = new(4, 6, 64, dtype="complex64")
    assert allocated(run("_fft_c2c", apart, (2,), 0, True, out=(result,)))[:2] == ["out 0", 4 * 6 * 64 * 8]
