"""Predictions against recordings: a few of the runs of docs/accuracy.md, by the same code. The others are checked by
`python -m benchmarks.accuracy.page --check`, which takes minutes."""

from __future__ import annotations

import gzip
from pathlib import Path

import pytest

from benchmarks.accuracy import page as accuracy
from benchmarks.recordings import packed as recordings
from benchmarks.recordings.compared import matched

RUNS = ("b1_s128", "sgd", "fp32_manual_checkpoint", "checkpoint")
"""The optimizer's peak and the loss's; a loop of attention by hand, without autocast, with blocks checkpointed; what is
freed before the loss."""


@pytest.mark.parametrize("name", RUNS)
def test_a_prediction_is_what_the_h200_did(name: str) -> None:
    row = accuracy.compare(recordings.FOLDER / f"{name}.json.gz")
    assert row.matched / row.allocations >= 0.9998
    assert row.predicted[0] == row.measured[0], "requested peak"
    assert row.load == (0, 0, 0), "after load"
    assert abs(row.predicted[1] / row.measured[1] - 1) < 0.003
    assert abs(row.predicted[2] / row.measured[2] - 1) < 0.003


def test_matching_counts_what_is_in_both_in_order() -> None:
    assert matched([1, 2, 3], [1, 2, 3]) == 3
    assert matched([], [1]) == 0
    assert matched([1, 2, 9, 3], [1, 2, 3]) == 3  # one too many
    assert matched([1, 3], [1, 2, 3]) == 2  # one too few
    assert matched([1, 7, 3], [1, 8, 3]) == 2  # one of another size
    assert matched([2, 1], [1, 2]) == 1  # order counts


def test_a_recording_that_is_read_and_written_is_the_same_file(tmp_path: Path) -> None:
    path = recordings.FOLDER / "b1_s128.json.gz"
    recordings.write(tmp_path / path.name, recordings.pack(recordings.as_columns(recordings.read(path))))
    assert gzip.decompress((tmp_path / path.name).read_bytes()) == gzip.decompress(path.read_bytes())


def test_a_run_is_described_by_what_is_not_usual() -> None:
    settings = dict(recordings.read(recordings.FOLDER / "b12_s200_clip_accumulate.json.gz").settings)
    assert accuracy.describe(settings) == "batch 12, seq 200, autocast fp16, 2 micro-batches, clipped to 0.5"
