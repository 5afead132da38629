"""Sorts, scans, products, losses and lists of tensors, each size by hand."""

from __future__ import annotations

import pytest

from memgraph.gpu.rules import cub
from tests.gpu.workspace_calls import RTX3090, allocated, new, run, strided, told


def pair(*shape: int, dtype: str = "float32") -> tuple[object, object]:
    """Values and indices."""
    return new(*shape, dtype=dtype), new(*shape, dtype="int64")


def test_rows_up_to_4096_are_sorted_in_place() -> None:
    # Recorded: a range of 4,096 indices, copied into each row and freed.
    assert told(run("sort", new(64, 4096), out=pair(64, 4096))) == ["out 0", "out 1", 32_768, "free 0"]


def test_one_long_row_is_one_sort() -> None:
    count = 100_000
    sort = cub.radix_sort(count, 4, 8, (9, 0))
    assert told(run("sort", new(count), out=pair(count))) == ["out 0", "out 1", 8 * count, sort, "free 1", "free 0"]


def test_a_few_rows_are_sorted_at_once_then_by_row() -> None:
    # 4 × 10,000: place and row of each element twice, the sorted keys, and a second sort on log2(4) = 2 bits in one
    # pass.
    count = 40_000
    first, second = cub.radix_sort(count, 4, 8, (9, 0)), cub.radix_sort(count, 8, 0, (9, 0), bits=2)
    found = run("sort", new(4, 10_000), out=pair(4, 10_000))
    assert allocated(found) == ["out 0", "out 1", 8 * count, 8 * count, 4 * count, first, second]


def test_many_rows_are_sorted_by_segment() -> None:
    count = 128 * 10_000
    found = run("sort", new(128, 10_000), out=pair(128, 10_000))
    assert allocated(found) == ["out 0", "out 1", 8 * count, 4 * count + 8 * count + 255]


def test_sorting_along_another_dimension_copies_in_and_out() -> None:
    count = 10_000 * 128
    found = run("sort", new(10_000, 128), 0, out=pair(10_000, 128))
    assert allocated(found)[:5] == ["out 0", "out 1", 4 * count, 4 * count, 8 * count]


def test_sorting_half_precision_before_hopper_is_not_known() -> None:
    half = new(100_000, dtype="bfloat16")
    assert run("sort", half, out=pair(100_000, dtype="bfloat16"), card=RTX3090) is None
    assert run("sort", half, out=pair(100_000, dtype="bfloat16")) is not None


def test_topk_of_a_vocabulary_takes_several_blocks_a_row() -> None:
    # 8 rows of 49,153: 8 × 49153 items over 132 × 6 × 256 threads is 2, at least 4 a thread: 49153 / 1024 → 49
    # blocks a row.
    blocks = 8 * 49
    found = run("topk", new(8, 49153), 50, out=pair(8, 50))
    kept = [32, 64, 64, blocks * 512, 8 * 1024, blocks * 4, blocks * 4]
    assert allocated(found) == ["out 0", "out 1", *kept, 1279, 1279]


def test_recorded_topk() -> None:
    kept = [32, 64, 64, 200_704, 8_192, 1_568, 1_568, 1_279, 1_279]
    assert allocated(run("topk", new(8, 50_000), 50, out=pair(8, 50))) == ["out 0", "out 1", *kept]
    near = [32_768, 65_536, 65_536, 4_194_304, 8_388_608, 32_768, 32_768, 1_279, 1_279]
    assert allocated(run("topk", new(8, 1024, 1024), 16, out=pair(8, 1024, 16))) == ["out 0", "out 1", *near]


def test_topk_of_short_rows_takes_nothing() -> None:
    assert told(run("topk", new(8, 512), 5, out=pair(8, 5))) == ["out 0", "out 1"]


def test_cumsum_of_a_mask_is_in_int64() -> None:
    mask = new(8, 512, dtype="bool")
    assert told(run("cumsum", mask, 1, out=new(8, 512, dtype="int64"))) == ["out 0", 8 * 512 * 8]


def test_cumsum_of_one_line_is_a_scan() -> None:
    line = new(4096, dtype="int64")
    assert told(run("cumsum", line, 0, out=line)) == ["out 0", 1279, "free 0"]


def test_randperm_sorts_random_keys() -> None:
    # 50,000: log2(n + 6n² / 1.26) → 34 bits, so int64 keys.
    found = run("randperm", 50_000, out=new(50_000, dtype="int64"))
    assert allocated(found)[:5] == ["out 0", 8, 400_000, 400_000, 400_000]
    # 10,000: 29 bits fit int32 keys.
    assert allocated(run("randperm", 10_000, out=new(10_000, dtype="int64")))[2:5] == [80_000, 40_000, 40_000]


def test_count_nonzero_sums_a_mask_as_int64() -> None:
    assert told(run("count_nonzero", new(8, 512), out=new(dtype="int64"))) == [4096, "out 0", 8 * 4096, "free 1"]


def test_recorded_loss_over_a_vocabulary_takes_only_outputs() -> None:
    logits, target = new(4096, 49153), new(4096, dtype="int64")
    assert told(run("_log_softmax", logits, 1, False, out=logits)) == ["out 0"]
    assert told(run("nll_loss_forward", logits, target, None, 1, -100, out=(new(), new()))) == ["out 0", "out 1"]
    assert told(run("nll_loss_backward", new(), logits, target, None, 1, -100, new(), out=logits)) == ["out 0"]
    assert told(run("_log_softmax_backward_data", logits, logits, 1, "float32", out=logits)) == ["out 0"]


def test_softmax_backward_multiplies_first() -> None:
    scores = new(8, 9, 512, 512)
    assert told(run("_softmax_backward_data", scores, scores, -1, "float32", out=scores)) == [
        "out 0",
        8 * 9 * 512 * 512 * 4,
    ]


def test_safe_softmax_masks_whole_rows_in_its_own_result() -> None:
    # A byte for each score, one for each row, and a zero.
    scores = new(8, 9, 512, 512)
    for version in ((2, 11), (2, 13)):
        found = run("_safe_softmax", scores, -1, out=scores, torch=version)
        assert told(found) == ["out 0", 8 * 9 * 512 * 512, 8 * 9 * 512, 4]


def test_a_strided_softmax_input_is_copied_after_the_output() -> None:
    scores = strided((8, 16, 32), (512, 1, 16))
    assert told(run("_softmax", scores, -1, False, out=new(8, 16, 32))) == ["out 0", 8 * 16 * 32 * 4]


@pytest.mark.parametrize(("name", "order"), [("mse_loss", ["out 0", 4000]), ("huber_loss", [4000, "out 0"])])
def test_mean_losses_keep_the_loss_of_each_element(name: str, order: list[object]) -> None:
    assert told(run(name, new(1000), new(1000), out=new())) == order
    assert told(run(name, new(1000), new(1000), 0, out=new(1000))) == ["out 0"]


def test_binary_cross_entropy_with_logits_is_a_chain() -> None:
    logits = new(1000)
    assert told(run("binary_cross_entropy_with_logits", logits, logits, None, None, 1, out=new())) == [
        4000,
        4000,
        "out 0",
    ]
    # With a weight for positives: it less one, and scaled by the targets, come and go.
    weighted = run("binary_cross_entropy_with_logits", logits, logits, None, new(1), 1, out=new())
    assert told(weighted) == [4000, 4, 4000, "free 1", "free 2", 4000, "out 0"]


def test_dropout_makes_its_mask_first() -> None:
    out = (new(64, 64), new(64, 64, dtype="bool"))
    assert told(run("native_dropout", new(64, 64), 0.1, True, out=out)) == ["out 1", "out 0"]


def test_gradient_norms_have_a_partial_for_each_chunk_of_the_largest() -> None:
    # 3 tensors × ceil(200,000 / 65,536) = 4 chunks, in float32 although the gradients are bfloat16.
    grads = (new(200_000, dtype="bfloat16"), new(10, dtype="bfloat16"), new(10, dtype="bfloat16"))
    norms = tuple(new(dtype="bfloat16") for _ in grads)
    assert told(run("_foreach_norm.Scalar", grads, 2, out=norms)) == [3 * 4 * 4, "out 0", "out 1", "out 2"]


def test_norms_of_mixed_dtypes_are_taken_one_by_one() -> None:
    grads = (new(200_000, dtype="bfloat16"), new(10))
    assert told(run("_foreach_norm.Scalar", grads, 2, out=(new(dtype="bfloat16"), new())))[0] == "out 0"


def test_rolling_two_dimensions_takes_one_tensor_between() -> None:
    window = new(8, 56, 56, 96)
    assert told(run("roll", window, (-3, -3), (1, 2), out=window)) == [window.nbytes, "out 0"]


def test_pooling_is_known_in_either_order_but_not_in_others() -> None:
    out = pair(8, 64, 56, 56)
    last = strided((8, 64, 112, 112), (64 * 112 * 112, 1, 64 * 112, 64))
    crossed = strided((8, 64, 112, 112), (64 * 112 * 112, 112 * 112, 1, 112))
    for image, known in ((new(8, 64, 112, 112), True), (last, True), (crossed, False)):
        assert (run("max_pool2d_with_indices", image, (3, 3), (2, 2), (1, 1), out=out) is not None) == known


def test_products_copy_what_cublas_cannot_read() -> None:
    rows, weight, out = new(4096, 576), strided((576, 1536), (1, 576)), new(4096, 1536)
    assert told(run("mm", rows, weight, out=out)) == ["out 0"]  # a transposed weight is readable
    every_other = strided((4096, 576), (1152, 2))
    assert told(run("mm", every_other, weight, out=out)) == ["out 0", 4096 * 576 * 4]
    assert told(run("addmm", new(1536), every_other, strided((576, 1536), (3072, 2)), out=out)) == [
        *("out 0", 576 * 1536 * 4, 4096 * 576 * 4)  # the second first
    ]


def test_batched_products_of_heads_split_off_by_a_view() -> None:
    # [8 × 9, 512, 64] as a view of [8, 512, 9, 64] has rows 576 apart: readable.
    heads = strided((9, 512, 64), (64, 576, 1))
    assert told(run("bmm", heads, strided((9, 64, 512), (64, 1, 576)), out=new(9, 512, 512))) == ["out 0"]
    # Broadcast rows are not.
    assert told(run("bmm", strided((9, 512, 64), (64, 0, 1)), new(9, 64, 8), out=new(9, 512, 8)))[1] == 9 * 512 * 64 * 4


def test_matrix_times_broadcast_vector() -> None:
    assert told(run("mv", new(8, 512), strided((512,), (0,)), out=new(8))) == ["out 0", 2048]


def test_the_median_of_everything_sorts_everything() -> None:
    # Recorded of 5,000 and of 300 x 40 transposed: values, indices, a sort; then a flag and the result.
    found = told(run("median", new(5000), out=new()))
    assert found == [20_000, 40_000, 40_000, 70_143, "free 3", "free 2", "free 1", 1, "out 0", "free 4", "free 0"]
    lying = allocated(run("median", strided((40, 300), (1, 40)), out=new()))
    assert lying == [48_000, 48_000, 96_000, 96_000, 155_903, 1, "out 0"]


def test_the_median_of_numbers_counts_what_is_none() -> None:
    # Recorded of 5,000: a flag for each, how many there are (as 5,000 · 8 bytes), what is left, its half, the place.
    found = allocated(run("nanmedian", new(5000), out=new()))
    assert found == [20_000, 40_000, 40_000, 70_143, 5000, 8, 40_000, 8, 4, 8, "out 0"]


def test_a_mode_is_found_in_slices_that_are_copied_unless_they_lie_in_one_piece() -> None:
    out = (new(40), new(40, dtype="int64"))
    assert told(run("mode", new(300, 40), 0, out=out)) == ["out 0", "out 1", 48_000]
    assert told(run("mode", new(300, 40), 1, out=(new(300), new(300, dtype="int64")))) == ["out 0", "out 1"]
    assert run("mode", new(5000), 0, out=(new(), new(dtype="int64"))) is None
