"""Layer, RMS, group and batch norm, against recorded H200 runs and by hand."""

from __future__ import annotations

from tests.gpu.workspace_calls import allocated, new, run, strided, told

PATCHES = strided((8, 196, 768), (150528, 1, 196))
"""A convolution's output, flattened and transposed: channels outside, places inside. Adding to it keeps that order."""
WEIGHT = new(768)
ROWS = (new(8, 196, 768), new(8, 196, 1), new(8, 196, 1))


def test_recorded_layer_norm_of_transposed_patches() -> None:
    found = run("native_layer_norm", PATCHES, (768,), WEIGHT, WEIGHT, 1e-6, out=ROWS)
    assert told(found) == [8 * 196 * 768 * 4, "out 0", "out 1", "out 2"]
    assert 8 * 196 * 768 * 4 == 4_816_896


def test_recorded_layer_norm_backward_of_transposed_patches() -> None:
    args = (new(8, 196, 768), PATCHES, (768,), ROWS[1], ROWS[2], WEIGHT, WEIGHT, (True, True, True))
    found = run("native_layer_norm_backward", *args, out=(new(8, 196, 768), WEIGHT, WEIGHT))
    assert told(found) == [4_816_896, "out 0", "out 1", "out 2"]


def test_a_contiguous_input_is_not_copied() -> None:
    assert told(run("native_layer_norm", ROWS[0], (768,), WEIGHT, WEIGHT, 1e-6, out=ROWS)) == [
        "out 0",
        "out 1",
        "out 2",
    ]


def test_a_strided_gradient_is_copied_after_the_outputs() -> None:
    args = (PATCHES, new(8, 196, 768), (768,), ROWS[1], ROWS[2], WEIGHT, WEIGHT, (True, True, True))
    found = run("native_layer_norm_backward", *args, out=(new(8, 196, 768), WEIGHT, WEIGHT))
    assert told(found) == ["out 0", "out 1", "out 2", 4_816_896]


def test_tall_inputs_are_summed_by_several_blocks() -> None:
    # 131072 rows of 768 columns: 24 tiles of 32 columns, and 32768 / 24 = 1365 partial sums for each column (not 4096).
    # Both gradients are made, then made anew as sums of 1365 rows, then the first ones are dropped.
    # The sums: 768 / 128 = 6 blocks of 32 × 4 threads; 1365 / 4 → 342 values, / 16 → 22 blocks an output.
    rows = new(131072, 768)
    args = (rows, rows, (768,), new(131072, 1), new(131072, 1), WEIGHT, WEIGHT, (True, True, True))
    found = run("native_layer_norm_backward", *args, out=(rows, WEIGHT, WEIGHT))
    blocks, scratch = 1365 * 768 * 4, 4 * 768 * 22 * 32 * 4
    assert told(found) == [
        *("out 0", 3072, 3072, blocks, blocks),
        *("out 1", scratch, 24, "free 5", "free 4", "free 0"),
        *("out 2", scratch, 24, "free 7", "free 6", "free 1"),
    ]


def test_wide_rows_are_not_split_however_tall() -> None:
    # 4096 / 32 = 128 tiles of columns are not fewer than 132 / 2.
    rows, weight = new(131072, 4096), new(4096)
    args = (rows, rows, (4096,), new(131072, 1), new(131072, 1), weight, weight, (True, True, True))
    assert told(run("native_layer_norm_backward", *args, out=(rows, weight, weight))) == ["out 0", "out 1", "out 2"]


def test_rms_norm_sums_one_gradient() -> None:
    rows = new(131072, 768)
    args = (rows, rows, (768,), new(131072, 1), WEIGHT, (True, True))
    found = told(run("_fused_rms_norm_backward", *args, out=(rows, WEIGHT)))
    assert found[:4] == ["out 0", 3072, 1365 * 768 * 4, "out 1"]


def test_group_norm_keeps_a_scale_and_a_shift_by_channel() -> None:
    image, weight = new(4, 64, 32, 32, dtype="bfloat16"), new(64, dtype="bfloat16")
    stats = new(4, 8, dtype="bfloat16")
    found = run("native_group_norm", image, weight, weight, 4, 64, 1024, 8, 1e-5, out=(image, stats, stats))
    assert told(found) == ["out 0", "out 1", "out 2", 4 * 64 * 4, 4 * 64 * 4]  # in float32


def test_group_norm_backward() -> None:
    # Two sums by sample and channel stay; two by group and a scale by channel come and go.
    image, weight, stats = new(4, 64, 32, 32), new(64), new(4, 8)
    args = (image, image, stats, stats, weight, 4, 64, 1024, 8, (True, True, True))
    found = run("native_group_norm_backward", *args, out=(image, weight, weight))
    assert told(found) == ["out 0", "out 1", "out 2", 1024, 1024, 128, 128, 1024, "free 4", "free 3", "free 2"]


def test_batch_norm_stages_only_channels_last() -> None:
    out = (new(16, 64, 56, 56), new(64), new(64))
    args = (new(64), new(64), new(64), new(64), True, 0.1, 1e-5)
    assert told(run("native_batch_norm", new(16, 64, 56, 56), *args, out=out)) == ["out 0", "out 1", "out 2"]
    # 50176 rows, blocks of 32 × 16 threads that take 16 rows each: 196, at most 128. 4 numbers for each channel and
    # block.
    image = strided((16, 64, 56, 56), (64 * 56 * 56, 1, 64 * 56, 64))
    assert allocated(run("native_batch_norm", image, *args, out=out))[3:] == [4 * 64 * 128 * 4, 4 * 2]


def test_batch_norm_of_a_strided_image_is_not_known() -> None:
    image = strided((16, 64, 56, 56), (64 * 56 * 60, 56 * 60, 60, 1))
    args = (new(64), new(64), new(64), new(64), True, 0.1, 1e-5)
    assert run("native_batch_norm", image, *args, out=(image, new(64), new(64))) is None
