"""Indexing with tensors and masks, against recorded H200 runs and by hand."""

from __future__ import annotations

from tests.gpu.workspace_calls import allocated, new, run, strided, told

HIDDEN = new(8, 512, 576)
ROWS = strided((8, 49), (1, 0), "int64")
"""arange(8)[:, None], broadcast over 49 places."""
PLACES = new(8, 49, dtype="int64")
IMAGE = new(8, 49, 576)


def test_recorded_index_brings_its_indices_to_one_layout() -> None:
    # The broadcast index becomes contiguous, 8 × 49 × 8 B; the other one is.
    assert told(run("index.Tensor", HIDDEN, (ROWS, PLACES), out=IMAGE)) == [3136, "out 0"]


def test_recorded_index_put() -> None:
    assert told(run("index_put_", HIDDEN, (ROWS, PLACES), IMAGE)) == [3136]
    assert told(run("index_put", HIDDEN, (ROWS, PLACES), IMAGE, out=HIDDEN)) == ["out 0", 3136]


def test_indices_of_one_layout_are_taken_as_they_are() -> None:
    assert told(run("index.Tensor", HIDDEN, (PLACES, PLACES), out=IMAGE)) == ["out 0"]
    assert told(run("index.Tensor", HIDDEN, (None, new(7, dtype="int64")), out=new(8, 7, 576))) == ["out 0"]


def test_int32_indices_are_copied() -> None:
    assert told(run("index.Tensor", HIDDEN, (new(7, dtype="int32"),), out=new(7, 512, 576))) == [7 * 8, "out 0"]


def test_backward_of_an_index_sorts_what_it_adds_up() -> None:
    # `unsafe`: no check of the range. Each index wrapped and scaled (392 × 8 B), the second added into the first;
    # then sorted
    # indices, places and the range that was sorted. 392 fit one tile: a byte of storage.
    found = run("_index_put_impl_", HIDDEN, (ROWS, PLACES), IMAGE, True, True)
    assert told(found) == [
        *(3136, 3136, "free 0", 3136, 3136, "free 2", "free 3"),
        *(3136, 3136, 3136, 1, "free 7", "free 6"),
    ]


def test_the_range_is_checked_unless_told_not_to() -> None:
    checked = told(run("index_put_", HIDDEN, (PLACES,), new(8, 49, 512, 576), True))
    assert checked[:8] == [8, 1, "free 1", "free 0", 8, 1, "free 3", "free 2"]  # max < size, then min


def test_values_put_by_broadcast_are_expanded_in_memory() -> None:
    found = allocated(run("index_put_", HIDDEN, (None, new(7, dtype="int64")), new(576), True))
    assert 8 * 7 * 576 * 4 in found


def test_a_mask_becomes_positions() -> None:
    # Count: an int, and a reduction of 4096 elements in one block (1 B). 100 positions in 2 dimensions; selection:
    # one tile of
    # 4224 and 32 of padding, 8 B each → 512 + 255, aligned → 768 + 255.
    found = run("index.Tensor", HIDDEN, (new(8, 512, dtype="bool"),), out=new(100, 576))
    assert told(found) == [4, 1, "free 1", 100 * 2 * 8, 1023, "free 3", "free 0", "out 0"]


def test_nonzero_of_a_large_mask_counts_in_five_waves() -> None:
    found = run("nonzero", new(100_000, dtype="bool"), out=new(7, 1, dtype="int64"))
    waves = 5 * 132 * (2048 // 256) * 4  # bytes: a partial count for each block
    assert allocated(found)[:3] == [4, -(-waves // 256) * 256 + 255, "out 0"]


def test_a_number_put_through_a_mask_is_a_masked_fill() -> None:
    assert run("index_put_", HIDDEN, (new(8, 512, dtype="bool"),), new()._replace(device="cpu")) == ()


def test_indices_on_the_host_are_copied_to_the_device() -> None:
    places = new(7, dtype="int64")._replace(device="cpu")
    assert told(run("index.Tensor", HIDDEN, (places,), out=new(7, 512, 576))) == [56, "out 0"]


def test_a_mask_on_the_host_is_looked_through_there() -> None:
    # Only its 100 positions come over, one tensor for each of its two dimensions.
    mask = new(8, 512, dtype="bool")._replace(device="cpu")
    assert told(run("index.Tensor", HIDDEN, (mask,), out=new(100, 576))) == [800, 800, "out 0"]


def test_what_a_mask_selects_is_not_made_up() -> None:
    # One row for all: how many elements the mask selects is in no shape.
    assert run("index_put_", HIDDEN, (new(8, 512, dtype="bool"),), new(1, 576)) is None


def test_rows_put_through_a_mask_tell_how_many() -> None:
    found = run("index_put_", HIDDEN, (new(8, 512, dtype="bool"),), new(100, 576))
    assert 100 * 2 * 8 in allocated(found)


def test_masked_select_broadcasts_its_mask() -> None:
    # The mask [512] becomes [8, 512], one byte each.
    found = run("masked_select", new(8, 512), strided((512,), (1,), "bool"), out=new(80))
    assert allocated(found)[:2] == [8 * 512, 4]


def test_masked_scatter_needs_the_running_count_of_the_mask() -> None:
    # 4096 int64 and a scan over them; see the scan by hand.
    found = run("masked_scatter", new(8, 512), new(8, 512, dtype="bool"), new(100), out=new(8, 512))
    assert told(found) == ["out 0", 8 * 4096, 1279, "free 1"]


def test_a_mean_counts_what_was_added() -> None:
    # Recorded of 5,000 numbers scattered over 1,000: ones of the source, counts, flags of where nothing was added.
    args = new(1000), 0, new(5000, dtype="int64"), new(5000), "mean"
    found = told(run("scatter_reduce.two", *args, out=new(1000)))
    assert found == ["out 0", 20_000, 4000, 1000, "free 2", "free 1", "free 0"]
    assert told(run("scatter_reduce.two", *args[:4], "sum", out=new(1000))) == ["out 0"]
