"""Recorded ranks of two H200s beside their prediction: one of docs/accuracy.md, by the same code. The others are made
by `python -m benchmarks.accuracy.two_gpus`, which takes minutes."""

from __future__ import annotations

import pytest

from benchmarks.accuracy import two_gpus
from benchmarks.accuracy.two_gpus import Ends


def test_allocations_of_ddp_are_the_recorded_ones() -> None:
    """With their bytes and their streams, in order: 824 of them."""
    assert two_gpus.log("settings", "ddp", "") == (824, 824)


def test_what_was_measured_is_read_rank_by_rank() -> None:
    """Two processes wrote into one file, sometimes into one line."""
    found = two_gpus.measured("paused")
    assert {rank for _, rank in found} == {0, 1}
    assert len(found) == 2 * len({name for name, _ in found})
    assert found["ddp", 0][0] == pytest.approx(2956.5645 * 2**20)


def test_a_figure_is_off_by_what_lies_outside_of_the_interval() -> None:
    assert Ends(90, 110).off(100) == 0
    assert Ends(90, 110).off(120) == pytest.approx(110 / 120 - 1)
    assert Ends(110, 90).off(80) == pytest.approx(90 / 80 - 1)
