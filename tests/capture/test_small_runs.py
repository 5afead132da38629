"""Fifteen small runs as an H200 with torch 2.11 had them: graphs, pools, Triton, quantised weights, threads, inference,
a growing cache, detection, routed experts. Requested and allocated are the card's to the byte; so is reserved."""

from __future__ import annotations

import json

import pytest

import memgraph
from tests import DATA
from tests.capture import small_runs

PEAKS: dict[str, list[int]] = json.loads((DATA / "small_runs_h200.json").read_text())["peaks"]


@pytest.mark.parametrize("name", PEAKS)
def test_the_peaks_are_the_cards(name: str) -> None:
    with memgraph.virtual_gpu("h200", torch="2.11") as gpu:
        kept = getattr(small_runs, name)()
        peak = gpu.trace.peak
        del kept
    assert [peak.requested, peak.allocated, peak.reserved] == PEAKS[name]
