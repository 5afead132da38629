"""CUB's temporary storage, and embedding gradients built on it, against CUB itself and recorded H200 runs."""

from __future__ import annotations

import json
from typing import Any

import pytest

from memgraph.gpu.rules import cub
from tests import DATA
from tests.gpu.workspace_calls import RTX3090, allocated, new, run, strided, told

CASES = json.loads((DATA / "cub_storage.json").read_text())["cases"]


@pytest.mark.parametrize("case", CASES)
def test_storage_is_what_cub_asks_for(case: dict[str, Any]) -> None:
    capability, items = divmod(case["capability"], 10), case["items"]
    if case["algorithm"] == "radix_sort":
        found = cub.radix_sort(items, case["key"], case["value"], capability, case["bits"])
    elif case["algorithm"] == "scan":
        found = cub.scan(items, case["size"])
    elif case["algorithm"] == "unique_by_key":
        found = cub.unique_by_key(items, case["size"], capability)
    else:
        found = cub.flagged(items, capability)
    assert found == case["bytes"]


def test_a_sort_by_hand() -> None:
    # 4096 int64 keys with int64 values on Hopper, 64 bits in 8 passes of 8 bits, one tile of 384 × 12 = 4608 items:
    # bins 8 × 256 × 8 B = 16384, look-back 1 × 256 × 4 B = 1024, keys and values 32768 each, counters 8 × 4 B → 256;
    # 255 to align.
    assert cub.radix_sort(4096, 8, 8, (9, 0)) == 16384 + 1024 + 32768 + 32768 + 256 + 255 == 83455


def test_a_scan_by_hand() -> None:
    # 4096 int64 in tiles of 128 × 7: 5 tiles and 32 of padding, 16 B each → 768 with 255 to align; aligned again,
    # 255 again.
    assert cub.scan(4096, 8) == 1024 + 255


def test_small_keys_before_hopper_depend_on_occupancy() -> None:
    assert cub.radix_sort(100_000, 2, 8, (8, 6)) is None
    assert cub.radix_sort(100_000, 2, 8, (9, 0)) is not None


def test_recorded_gradient_of_4096_indices() -> None:
    found = run(
        "embedding_dense_backward",
        new(8, 512, 576),
        new(8, 512, dtype="int64"),
        49153,
        -1,
        False,
        out=new(49153, 576),
    )
    pieces = 4096 // 10 + 4096
    sort = ["free 3", "free 2"]  # the sort's storage, then the places that it carried
    assert told(found) == [
        *(32768, 32768, 32768, 83455, *sort, "out 0", 32768, 8, 32768, 1279, "free 7", "free 6"),
        *(32768, 32768, 1279, "free 10", 8, 8 * pieces, 4 * 576 * pieces, "free 13"),
    ]
    assert (8 * pieces, 4 * 576 * pieces) == (36040, 10_379_520)


@pytest.mark.parametrize(("batch", "seq"), [(1, 128), (16, 128), (6, 512)])
def test_recorded_gradient_of_up_to_3072_indices_is_one_kernel(batch: int, seq: int) -> None:
    indices = new(batch, seq, dtype="int64")
    assert told(
        run("embedding_dense_backward", new(batch, seq, 576), indices, 49153, -1, False, out=new(49153, 576))
    ) == ["out 0"]


def test_gradients_of_few_rows_need_few_segments() -> None:
    # 10,000 indices into 100 rows: 100 segments of 8 B, and 10,000 / 10 + 100 pieces.
    found = allocated(
        run("embedding_dense_backward", new(10_000, 64), new(10_000, dtype="int64"), 100, -1, False, out=new(100, 64))
    )
    assert found.count(800) == 2
    assert found[-2:] == [1100 * 8, 1100 * 64 * 4]


def test_half_precision_gradients_are_added_in_float32() -> None:
    args = (new(10_000, 64, dtype="bfloat16"), new(10_000, dtype="int64"), 100, -1, False)
    assert allocated(run("embedding_dense_backward", *args, out=new(100, 64, dtype="bfloat16")))[-1] == 1100 * 64 * 4


def test_other_cards_sort_with_other_tiles() -> None:
    args = (new(8, 512, 576), new(8, 512, dtype="int64"), 49153, -1, False)
    hopper = allocated(run("embedding_dense_backward", *args, out=new(49153, 576)))
    ampere = allocated(run("embedding_dense_backward", *args, out=new(49153, 576), card=RTX3090))
    assert (
        ampere[3] == hopper[3] + 1024
    )  # 4096 items are two tiles of 3840, not one of 4608: 256 × 4 B more to look back


SORTED = [51_200, 51_200, 51_200, 121_343, "free 3", "free 2"]
"""Recorded on an H200 for 6,400 indices: sorted, original places, places; the sort's own."""


def test_recorded_frequency_scaling_counts_each_index() -> None:
    args = (new(64, 100, 128), new(64, 100, dtype="int64"), 5000, -1, True)
    found = told(run("embedding_dense_backward", *args, out=new(5000, 128)))
    assert found[:12] == [*SORTED, 51_200, 1279, "free 5", 1279, "free 6", "out 0"]
    few = (new(4, 128), new(4, dtype="int64"), 5000, -1, True)
    assert told(run("embedding_dense_backward", *few, out=new(5000, 128)))[0] != "out 0"


def test_recorded_embedding_bag() -> None:
    # 64 bags of 100: the sizes of the bags, the bag of each of 6,400 indices, the result; for a maximum, its places.
    bags = (new(64, 128), new(6400, dtype="int64"), new(64, dtype="int64"))
    call = (new(5000, 128), new(6400, dtype="int64"), new(64, dtype="int64"), False)
    assert told(run("_embedding_bag", *call, 1, out=bags)) == ["out 2", "out 1", "out 0"]
    most = (*bags, new(64, 128, dtype="int64"))
    assert told(run("_embedding_bag", *call, 2, out=most)) == ["out 2", "out 1", "out 0", "out 3"]


def test_recorded_gradient_of_an_embedding_bag() -> None:
    rest = (
        new(6400, dtype="int64"),
        new(6400, dtype="int64"),
        new(64, dtype="int64"),
        new(0, dtype="int64"),
        5000,
        False,
    )
    found = told(run("_embedding_bag_dense_backward", new(64, 128), *rest, 1, out=new(5000, 128)))
    assert found[:7] == [*SORTED, "out 0"]
    assert [step for step in found[7:] if not str(step).startswith("free")] == [
        51_200, 8, 51_200, 1279, 40_000, 40_000, 1279, 8, 45_120, 2_887_680,
    ]  # fmt: skip
    assert told(run("_embedding_bag_dense_backward", new(64, 128), *rest, 2, out=new(5000, 128))) == ["out 0"]


def test_looking_up_broadcast_indices_flattens_them_first() -> None:
    weight, out = new(512, 64), new(8, 512, 64)
    assert told(run("embedding", weight, new(8, 512, dtype="int64"), out=out)) == ["out 0"]
    assert told(run("embedding", weight, strided((8, 512), (0, 1), "int64"), out=out)) == [8 * 512 * 8, "out 0"]
