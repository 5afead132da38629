"""Scratch of reductions, against an H200's own allocations and against torch's own planner."""

from __future__ import annotations

import json
import math
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from memgraph.gpu.call import Call, Temporary, TensorMeta
from memgraph.gpu.rules.iterator import reduction
from memgraph.gpu.rules.layout import ITEMSIZE, Plan
from memgraph.gpu.rules.reduce import Kernel, reduce_scratch
from tests import DATA
from tests.gpu.workspace_calls import H200, RTX3090, allocated, new, run, strided, told

KERNELS = {
    "float32 sum": (Kernel(4), "float32", (4,)),
    "bfloat16 sum": (Kernel(4, vector=8), "bfloat16", (2,)),
    "float32 argmax pair": (Kernel(16), "float32", (4, 8)),
    "float64 welford": (Kernel(32, vector=2), "float64", (8,)),
    "float32 welford": (Kernel(16, vector=2), "float32", (4,)),
}
CASES = json.loads((DATA / "reduction_scratch.json").read_text())["cases"]


@pytest.mark.parametrize("case", CASES)
def test_scratch_is_what_torchs_own_planner_computes(case: dict[str, Any]) -> None:
    kernel, dtype, outputs = KERNELS[case["kernel"]]
    source = TensorMeta(tuple(case["shape"]), tuple(case["stride"]), dtype, ITEMSIZE[dtype])
    plan = Plan(Call("sum", "default", (), {}, ()))
    card: Any = SimpleNamespace(sms=case["sms"], max_threads_per_sm=case["threads"])
    reduce_scratch(plan, reduction(source, case["dims"], case["keepdim"], outputs), kernel, card)
    assert [step.size for step in plan.steps() if isinstance(step, Temporary)] == case["sizes"]


def test_recorded_sum_over_rows_of_a_hidden_state() -> None:
    # 576 outputs of 4096 values. Threads take 4 outputs: 32 × 4 threads cover 128 outputs, so 5 blocks cover 576.
    # 4 rows of threads leave 4096 / 4 = 1024 values a thread, at least 256, so blocks share outputs: min(2112 / 5,
    # 1024 / 16) = 64.
    # Scratch 4 B × 576 × 64 blocks × 32 threads × 4 outputs; one 4-byte semaphore for each of the 5.
    found = run("sum.dim_IntList", new(8, 512, 576), (0, 1), True, out=new(1, 1, 576))
    assert told(found) == ["out 0", 4 * 576 * 64 * 32 * 4, 4 * 5, "free 1", "free 0"]
    assert 4 * 576 * 64 * 32 * 4 == 18_874_368


@pytest.mark.parametrize(
    ("rows", "columns", "scratch", "semaphores"),
    [
        (1568, 768, 9_830_400, 24),
        (1568, 3072, 39_321_600, 96),
        (1568, 2304, 29_491_200, 72),
        (3136, 768, 19_267_584, 24),
        (3136, 3072, 77_070_336, 96),
        (3136, 2304, 57_802_752, 72),
    ],
)
def test_recorded_bias_gradients_in_bfloat16(rows: int, columns: int, scratch: int, semaphores: int) -> None:
    # Accumulated in float32: 4 B × columns × ceil(ceil(rows / 4) / 16) blocks × 32 threads × 4 outputs.
    found = run(
        "sum.dim_IntList", new(rows, columns, dtype="bfloat16"), (0,), True, out=new(1, columns, dtype="bfloat16")
    )
    assert allocated(found) == ["out 0", scratch, semaphores]
    assert scratch == 4 * columns * math.ceil(math.ceil(rows / 4) / 16) * 32 * 4
    assert semaphores == 4 * math.ceil(columns / 128)


@pytest.mark.parametrize(
    ("name", "shape", "dims", "dtype"),
    [
        ("sum.dim_IntList", (8, 512, 576), (2,), "float32"),
        ("mean.dim", (8, 512, 576), (2,), "float32"),
        ("sum.dim_IntList", (8, 3, 3, 512, 64), (2,), "bfloat16"),
        ("sum.dim_IntList", (8, 196, 768), (0,), "float32"),
        ("sum.dim_IntList", (1, 128, 576), (0, 1), "float32"),
        ("sum.dim_IntList", (196, 768), (0,), "bfloat16"),
    ],
)
def test_recorded_reductions_without_scratch(
    name: str, shape: tuple[int, ...], dims: tuple[int, ...], dtype: str
) -> None:
    kept = tuple(1 if dim in dims else size for dim, size in enumerate(shape))
    assert told(run(name, new(*shape, dtype=dtype), dims, True, out=new(*kept, dtype=dtype))) == ["out 0"]


def test_recorded_batch_16_sum_has_half_the_values_and_half_the_blocks() -> None:
    # 2048 / 4 rows of threads = 512 values: 512 / 16 = 32 blocks.
    found = run("sum.dim_IntList", new(16, 128, 576), (0, 1), True, out=new(1, 1, 576))
    assert allocated(found) == ["out 0", 4 * 576 * 32 * 32 * 4, 20] == ["out 0", 9_437_184, 20]


def test_recorded_max_of_a_broadcast_arange_copies_it() -> None:
    positions = strided((8, 512), (0, 1), "int64")
    assert allocated(run("max", positions, out=new(dtype="int64"))) == ["out 0", 8 * 512 * 8]


def test_recorded_argmax_over_a_short_row_needs_nothing() -> None:
    assert told(run("argmax", new(8, 512, dtype="int32"), 1, out=new(8, dtype="int64"))) == ["out 0"]


def test_integers_are_summed_as_int64_copies() -> None:
    mask = new(8, 512, dtype="bool")
    assert told(run("sum", mask, out=new(dtype="int64"))) == ["out 0", 8 * 512 * 8, "free 0"]


def test_half_precision_into_float32_is_read_as_it_is() -> None:
    found = run("sum.dim_IntList", new(64, 64, dtype="bfloat16"), (1,), False, dtype="float32", out=new(64))
    assert told(found) == ["out 0"]


def test_an_explicit_dtype_copies_the_input() -> None:
    found = run("sum.dim_IntList", new(64, 64), (1,), False, dtype="float64", out=new(64, dtype="float64"))
    assert told(found) == ["out 0", 64 * 64 * 8, "free 0"]


def test_a_smaller_card_splits_into_fewer_blocks() -> None:
    # 82 SMs × 1536 / 512 threads = 246 blocks wanted for one output of 2²² values, of which a thread should get at
    # most 256:
    # 2²² / 512 threads / 256 = 32, and 8192 values a thread / 16 = 512, so 246 on the 3090 and 528 (132 × 4), cut to
    # 512, on the H200.
    vector = new(2**22)
    for card, blocks in ((RTX3090, 246), (H200, 512)):
        assert allocated(run("sum", vector, out=new(), card=card)) == ["out 0", 4 * blocks, 4]


def test_variance_keeps_mean_squares_and_two_counts() -> None:
    # The same blocks as a sum over a strided dimension, but 16 bytes for each partial result.
    source = new(4096, 576)
    plain = run("sum.dim_IntList", source, (0,), False, out=new(576))
    moments = run("var.correction", source, (0,), out=new(576), correction=1)
    assert allocated(moments)[1] == 4 * allocated(plain)[1]


def test_variance_of_complex_numbers_is_not_known() -> None:
    assert run("var.correction", new(8, 8, dtype="complex64"), (1,), out=new(8), correction=1) is None


def test_two_outputs_come_first() -> None:
    outputs = (new(8), new(8, dtype="int64"))
    assert told(run("max.dim", new(8, 100), 1, out=outputs)) == ["out 0", "out 1"]


def test_logsumexp_is_a_chain_of_ops() -> None:
    # maxima [8, 1], their absolute values and a mask that come and go, the shifted exponentials [8, 100], then the
    # result.
    found = run("logsumexp", new(8, 100), (1,), False, out=new(8))
    assert told(found) == [32, 32, 8, "free 2", "free 1", 3200, "out 0"]


def test_a_reduction_beyond_32_bits_runs_in_pieces_that_give_their_scratch_back() -> None:
    found = told(run("sum", new(2**31), out=new()))  # 8 GiB of float32: offsets of 2³³ bytes need 4 pieces or more
    takes, frees = sum(isinstance(step, int) for step in found), sum(str(step).startswith("free") for step in found)
    assert takes == frees >= 8


def test_an_op_in_place_has_no_output_to_place() -> None:
    assert run("sum.IntList_out", new(4, 4), (1,), out=(), dtype="float32") == ()


def test_complex_norms_add_up_real_numbers() -> None:
    assert told(run("linalg_vector_norm", new(8, 8, dtype="complex64"), 2, (1,), out=new(8))) == ["out 0"]


shapes = st.lists(st.integers(1, 3000), min_size=1, max_size=4).filter(lambda shape: math.prod(shape) <= 2**33)


@given(shape=shapes, data=st.data())
def test_pieces_cover_every_element_once(shape: list[int], data: st.DataObject) -> None:
    dims = data.draw(st.sets(st.sampled_from(range(len(shape))), min_size=1))
    what = reduction(new(*shape), tuple(dims), False, (4,))
    pieces = list(what.pieces())
    assert sum(math.prod(piece.shape) for piece in pieces) == math.prod(shape)
    assert all(piece.fits_32bit for piece in pieces)


@given(shape=shapes, data=st.data())
def test_dimensions_of_size_one_change_nothing(shape: list[int], data: st.DataObject) -> None:
    place = data.draw(st.integers(0, len(shape)))
    with_one = [*shape[:place], 1, *shape[place:]]
    dims = data.draw(st.sets(st.sampled_from(range(len(shape))), min_size=1))
    moved = tuple(dim + (dim >= place) for dim in dims)
    one, other = (
        run("sum.dim_IntList", new(*sizes), over, False, out=new())
        for sizes, over in ((shape, tuple(dims)), (with_one, moved))
    )
    assert one == other
