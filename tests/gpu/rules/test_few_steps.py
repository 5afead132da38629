"""Ops of a few steps, by hand after the sources that their rules name."""

from __future__ import annotations

import pytest

from tests.gpu.workspace_calls import RTX3090, allocated, new, run, strided, told


def test_isin_compares_everything_with_few_tests_and_sorts_many() -> None:
    """10 * 100000 ** 0.145 = 53.09: up to 52 tests are compared at once, 100,000 x 16 of them in 1,600,000 bytes."""
    elements, result = new(100_000, dtype="int64"), new(100_000, dtype="bool")
    found = allocated(run("isin.Tensor_Tensor", elements, new(16, dtype="int64"), out=result))
    assert found[:3] == ["out 0", 1_600_000, 100_000]
    assert allocated(run("isin.Tensor_Tensor", elements, new(53, dtype="int64"), out=result))[1] == 800_000
    assert allocated(run("isin.Tensor_Scalar", elements, 3, out=result)) == ["out 0"]


def test_a_grid_of_points_is_made_from_ranges() -> None:
    """4 x 32 x 16 points of three floats; 16 columns and 32 rows, each range scaled where corners are not aligned."""
    theta, result = new(4, 2, 3), new(4, 32, 16, 2)
    points = 4 * 32 * 16 * 3 * 4
    aligned = run("affine_grid_generator", theta, (4, 3, 32, 16), True, out=result)
    assert allocated(aligned) == [points, 64, 128, "out 0"]
    apart = run("affine_grid_generator", theta, (4, 3, 32, 16), False, out=result)
    assert allocated(apart) == [points, 64, 64, 128, 128, "out 0"]


def test_a_half_types_slices_are_measured_in_float32() -> None:
    half = new(512, 300, dtype="float16")
    assert allocated(run("renorm", half, 2, 0, 1.0, out=half)) == ["out 0", 2048, 1024]
    assert allocated(run("renorm", new(512, 300), 2, 0, 1.0, out=new(512, 300))) == ["out 0", 2048]


def test_a_difference_is_held_while_its_norm_is_taken() -> None:
    assert allocated(run("dist", new(30, 1), new(40), 2, out=new()))[0] == 30 * 40 * 4
    assert allocated(run("trace", new(512, 512), out=new())) == ["out 0"]


def test_what_is_unpooled_is_copied_where_it_is_strided() -> None:
    last = strided((2, 3, 8, 8), (192, 1, 24, 3))
    indices = new(2, 3, 8, 8, dtype="int64")
    assert allocated(run("max_unpool2d", last, indices, (16, 16), out=new(2, 3, 16, 16))) == [1536, "out 0"]


def test_products_that_are_added_up_need_nothing_where_each_can_be_read() -> None:
    result = new(30, 20)
    assert allocated(run("addbmm", result, new(8, 30, 40), new(8, 40, 20), out=result)) == ["out 0"]
    assert run("addbmm", result, strided((8, 30, 40), (2400, 80, 2)), new(8, 40, 20), out=result) is None


def test_a_grouped_product_has_arguments_of_each_group_and_descriptors_of_each_multiprocessor() -> None:
    """One H200: 60 bytes for each of 4 groups, and 132 * 4 * 128; with scales 76, and 132 * 5 * 128."""
    rows, weights = new(1024, 256, dtype="bfloat16"), new(4, 256, 512, dtype="bfloat16")
    ends, out = new(4, dtype="int32"), new(1024, 512, dtype="bfloat16")
    assert told(run("_grouped_mm", rows, weights, ends, out=out)) == ["out 0", 240, 67584, "free 1", "free 0"]
    assert told(run("_grouped_mm", new(1024, 256), new(4, 256, 512), ends, out=new(1024, 512))) == ["out 0"]
    scales = (new(1024), new(4, 512))
    assert told(run("_scaled_grouped_mm", rows, weights, *scales, ends, out=out))[1:3] == [304, 84480]
    assert run("_grouped_mm", rows, weights, ends, out=out, card=RTX3090) is None


def test_a_histogram_without_bounds_looks_for_them() -> None:
    assert told(run("histc", new(64), 8, -3, 3, out=new(8))) == ["out 0"]
    assert told(run("histc", new(64), 8, out=new(8))) == ["out 0", 4, "free 0", 4, "free 1"]


def test_a_scan_of_halves_keeps_its_states_apart() -> None:
    """As one H200: 1,279 for 1,000 and 100,000 numbers, 3,327 for a million."""
    for count, size in ((1000, 1279), (100_000, 1279), (1_000_000, 3327)):
        line = new(count, dtype="bfloat16")
        assert told(run("cumsum", line, 0, out=line)) == ["out 0", size, "free 0"]


def test_the_absolute_value_of_a_complex_number_is_complex_first() -> None:
    assert told(run("abs", new(8, dtype="complex64"), out=new(8))) == ["out 0", 64]
    assert told(run("abs", new(8), out=new(8))) == ["out 0"]


def test_a_loss_over_labels_keeps_which_are_targets() -> None:
    source, target = new(64, 100), new(64, 100, dtype="int64")
    found = run("multilabel_margin_loss_forward", source, target, 1, out=(new(), new(64, 100)))
    assert told(found) == ["out 1", 256, "out 0"]


def test_counts_read_the_smallest_and_the_largest_first() -> None:
    # Recorded of 1,000 and 1,000,000 numbers; bytes have nothing below 0.
    numbers = new(1000, dtype="int64")
    assert told(run("bincount", numbers, None, 128, out=new(128, dtype="int64"))) == [8, "free 0", 8, "free 1", "out 0"]
    many = told(run("bincount", new(10**6, dtype="int64"), new(10**6), 128, out=new(128)))
    assert [step for step in many if isinstance(step, int)] == [8, 984, 4, 8, 984, 4]
    assert told(run("bincount", new(9, dtype="uint8"), None, 9, out=new(9, dtype="int64"))) == [1, "free 0", "out 0"]
    assert told(run("bincount", numbers, new(1000, dtype="int64"), 128, out=new(128)))[-1] == 8000


def test_an_evaluated_batch_norm_asks_its_running_variance_alone() -> None:
    # No gradient of weight and bias: 4 bytes a channel, and the input's gradient.
    call = (new(2, 64, 8, 8), new(2, 64, 8, 8), new(64), new(64), new(64), new(0), new(0), False, 1e-5)
    found = run("native_batch_norm_backward", *call, (True, False, False), out=new(2, 64, 8, 8))
    assert told(found) == [256, "out 0"]


@pytest.mark.parametrize(("weight", "inside"), [(new(64), [256, 256, 256, 256, "out 0"]), (None, [256, 256, "out 0"])])
def test_a_batch_norm_of_rows_sums_up_also_what_nobody_asks_for(weight: object, inside: list[object]) -> None:
    # `affine=False`, the last layer of SimSiam, makes no gradients of weight and bias; of frozen ones it does: 4 bytes
    # a channel each, after the two sums.
    call = (new(16, 64), new(16, 64), weight, None, None, new(64), new(64), True, 1e-5, (True, False, False))
    assert told(run("native_batch_norm_backward", *call, out=new(16, 64))) == inside


def test_a_product_of_bytes_takes_nothing_where_both_can_be_read() -> None:
    left, right = new(32, 64, dtype="int8"), new(64, 16, dtype="int8")
    assert told(run("_int_mm", left, right, out=new(32, 16, dtype="int32"))) == ["out 0"]
    assert run("_has_same_storage_numel", left, right) == run("_new_zeros_with_same_feature_meta", left, right) == ()


def test_infinite_elements_are_found_by_their_absolute_values() -> None:
    # Recorded of 400 floats, and of halves.
    assert told(run("isinf", new(400), out=new(400, dtype="bool"))) == [1600, "out 0", "free 0"]
    assert told(run("isinf", new(400, dtype="bfloat16"), out=new(400, dtype="bool"))) == [800, "out 0", "free 0"]
    assert told(run("isinf", new(400, dtype="int64"), out=new(400, dtype="bool"))) == ["out 0"]
    assert run("isinf", new(4, dtype="complex64"), out=new(4, dtype="bool")) is None


def test_equal_tensors_are_compared_element_by_element() -> None:
    assert told(run("equal", new(8, 50), new(8, 50))) == [400, 1, "free 1", "free 0"]
    assert told(run("equal", new(1), new(1))) == [1, 1, "free 1", "free 0"]
    assert run("equal", new(8), new(9)) == ()
