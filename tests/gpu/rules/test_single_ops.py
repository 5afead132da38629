"""Single ops on the virtual GPU as one H200 had them: requests and frees, in order."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.single_ops.compare import counted, read, table, verdict
from benchmarks.single_ops.record import CASES, Virtual, measured

RECORDED = read(Path(__file__).parents[3] / "benchmarks" / "recordings" / "single_ops.jsonl.gz")
ALIKE = (
    "eigh (128,128) float32", "svd reduced (2000,100) float64", "svdvals (300,8,8) float32", "pinv (100,30) float32",
    "qr complete (4,300,200) float32", "qr r (512,128) float32", "lstsq 512 100 32 4", "solve 100 512 16",
    "solve vector 512", "lu_solve 64 64 2 True", "lu (4,16,16) float32", "inv (16,64,64) float64",
    "det (100,100) float32", "slogdet (8,512,512) float32", "cholesky_solve 128 64 2", "training of inv 32",
    "training of pinv 32", "fft (16,4099) c2c", "fftn (4,64,64,64) irfftn", "fft training rfft2",
    "batch_norm (32,64,56,56) float16 channels_last amp", "attention FLASH_ATTENTION gqa True",
    "attention EFFICIENT_ATTENTION valuewidth True", "grouped_mm of columns bfloat16", "histc open range",
    "cumsum half 100000", "randperm 100000", "grid lu_factor (1024,1024) float64", "grid eigh (4096,4096) float32",
    "unique 1000", "unique inverse counts 100000", "unique_consecutive 1000000", "multinomial",
    "multinomial one", "multinomial replacement",
)  # fmt: skip


def test_ops_of_each_family_ask_for_what_they_asked_for_on_the_card() -> None:
    with Virtual() as card:
        found = {name: measured(card, CASES[name]) for name in ALIKE if name in CASES}
    words = {name: verdict(RECORDED[name], case) for name, case in found.items()}
    assert {name: word for name, word in words.items() if word != "same"} == {}


def test_each_recorded_case_has_its_function() -> None:
    assert RECORDED.keys() == CASES.keys()


@pytest.mark.parametrize(
    ("events", "peak", "word"),
    [([4, -4], 4, "same"), ([-4, 4], 4, "sizes"), ([5, -5], 400, "OTHER"), ([401], 401, "OTHER"), ([2, 2], 4, "peak")],
)
def test_verdicts(events: list[int], peak: int, word: str) -> None:
    card = {"again": {"events": [4, -4], "peak": 4}}
    assert verdict(card, {"again": {"events": events, "peak": peak}}) == word
    assert verdict(card, {"error": "refused"}) == "ERROR"


def test_counts_are_by_the_first_word() -> None:
    case = {"again": {"events": [4], "peak": 4}}
    counts = counted({"qr a": case, "qr b": case, "grid qr": case}, {"qr a": case, "qr b": case, "grid qr": case})
    assert {name: words["same"] for name, words in counts.items()} == {"qr": 2, "all": 2, "grid": 1}
    assert "| qr   | 2    |" in table(counts)
