"""Distinct values and samples: each size by hand, or as it was recorded."""

from __future__ import annotations

from memgraph.gpu.rules import cub
from tests.gpu.workspace_calls import RTX3090, new, run, strided, told


def three(count: int, inverse: int = 0, counts: int = 0) -> tuple[object, ...]:
    """Values, inverse and counts in int64."""
    return new(count, dtype="int64"), new(inverse, dtype="int64"), new(counts, dtype="int64")


def test_runs_are_found_in_one_pass() -> None:
    # A result for all of them, their number, and the states of a tile: (32 + 1) · 8 bytes on 256, twice aligned.
    numbers = new(1000, dtype="int64")
    assert told(run("unique_consecutive", numbers, out=three(1000))) == ["out 0", 8, 1023, "free 1", "free 0"]


def test_what_is_not_consecutive_is_sorted_first() -> None:
    numbers, sort = new(100_000, dtype="int64"), cub.radix_sort(100_000, 8, 0, (9, 0))
    found = told(run("_unique2", numbers, True, False, False, out=three(100_000)))
    assert found == [800_000, sort, "free 1", "out 0", 8, 1023, "free 3", "free 2", "free 0"]


def test_the_inverse_and_the_counts_as_recorded_of_a_million() -> None:
    numbers, size = new(10**6, dtype="int64"), 8 * 10**6
    found = told(run("_unique2", numbers, True, True, True, out=three(10**6, 10**6, 10**6)))
    sizes = [size, size, size, 16_240_127, "out 1", size, 3_583, "out 0", 8, "out 2", 21_759]
    assert [step for step in found if not str(step).startswith("free")] == sizes


def test_bools_and_a_dimension_with_counts_are_not_known() -> None:
    assert run("_unique2", new(10, dtype="bool"), True, False, False, out=three(10)) is None
    assert run("unique_dim", new(10, 2), 0, True, False, True, out=three(10)) is None
    half = new(100_000, dtype="bfloat16")
    assert run("_unique2", half, True, False, False, out=three(10), card=RTX3090) is None


def test_slices_are_merged_by_their_places() -> None:
    # Recorded of 1,000 x 8 int64: places, a merge sort, the first of each run.
    found = told(run("unique_dim", new(1000, 8, dtype="int64"), 0, True, False, False, out=three(1000)))
    assert found == [8000, 8703, "free 1", 1535, "free 2", "out 0"]


def test_slices_along_another_dimension_are_copied() -> None:
    assert told(run("unique_dim", new(8, 100), 1, True, False, False, out=three(8)))[:2] == [8 * 100 * 4, 800]
    lying = strided((100, 8), (1, 100))
    assert told(run("unique_dim", lying, 1, True, False, False, out=three(8)))[0] == 64


def test_one_of_each_row_is_the_largest_of_noise() -> None:
    # Recorded of 64 x 1,000: bounds and whether they are right, sums of rows, then 64 · 1,000 floats.
    found = told(run("multinomial", new(64, 1000), 4, out=new(64, 4, dtype="int64")))
    assert found[:6] == ["out 0", 4, 1, 4, 1, 1]
    assert [step for step in found[10:] if isinstance(step, int)] == [256, 64, 1, 1, 256_000, 1_024]


def test_with_replacement_they_are_looked_up_in_running_sums() -> None:
    found = run("multinomial", new(64, 1000), 4, True, out=new(64, 4, dtype="int64"))
    assert told(found) == ["out 0", 256_000, 256_000, 256_000, "free 2", "free 1", "free 0"]
    assert 256_000 * 2 not in told(run("multinomial", new(64, 1000), 1, True, out=new(64, 1, dtype="int64")))


def test_runs_with_their_inverse() -> None:
    # Recorded of 300,000 int64: the inverse, where runs begin as int32, a running sum; then as above.
    numbers = new(300_000, dtype="int64")
    found = told(run("unique_consecutive", numbers, True, True, out=three(300_000, 300_000, 300_000)))
    sizes = ["out 1", 1_200_000, 1791, "out 0", 8, "out 2", 7167]
    assert [step for step in found if not str(step).startswith("free")] == sizes


def test_floats_are_sorted_by_smaller_tiles() -> None:
    # Recorded of 300,000 and 2,000,000 numbers: 44 and 290 tiles of 384 threads of 18 floats, where integers have 19.
    assert (cub.radix_sort(300_000, 4, 0, (9, 0), floats=True), cub.radix_sort(300_000, 4, 0, (9, 0))) == (
        1_253_887, 1_251_839,
    )  # fmt: skip
    assert cub.radix_sort(2_000_000, 4, 0, (9, 0), floats=True) == 8_305_663


def test_many_slices_are_compared_by_a_function() -> None:
    # Recorded of 100,000 slices: 313 tiles of 64 threads of 5 places.
    found = told(run("unique_dim", new(100_000, 6), 0, True, False, False, out=three(100_000)))
    assert [step for step in found if isinstance(step, int)] == [800_000, 800_511, 3839]
