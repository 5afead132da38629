"""A run as a Chrome trace."""

from __future__ import annotations

import json
from collections import Counter
from typing import Any

import pytest

from memgraph.render.perfetto import chrome_trace
from memgraph.trace import Category
from tests.conftest import Tape
from tests.render.drawn import run


@pytest.fixture(scope="module")
def entries() -> list[dict[str, Any]]:
    return list(json.loads(chrome_trace(run()))["traceEvents"])


def test_counters_follow_the_three_curves(entries: list[dict[str, Any]]) -> None:
    highest: Counter[str] = Counter()
    for entry in entries:
        if entry["ph"] == "C":
            highest[entry["name"]] = max(highest[entry["name"]], sum(entry["args"].values()))
    assert (highest["requested"], highest["allocated"], highest["reserved"]) == run().peak[:3]


def test_phases_are_slices_of_the_whole_run(entries: list[dict[str, Any]]) -> None:
    slices = [
        (entry["ts"], entry["ts"] + entry["dur"]) for entry in entries if entry["ph"] == "X" and entry["tid"] == 1
    ]
    assert slices == [(phase.start, phase.stop) for phase in run().phases]


def test_each_large_buffer_begins_and_ends_once(entries: list[dict[str, Any]]) -> None:
    ends = Counter((entry["id"], entry["ph"]) for entry in entries if entry["ph"] in "be")
    assert ends and set(ends.values()) == {1}
    begun = {entry["id"]: entry["ts"] for entry in entries if entry["ph"] == "b"}
    assert all(run().lives[index].start == time for index, time in begun.items())
    assert {name for name, _ in ends} == set(begun)


def test_what_waits_for_other_streams_has_a_line_of_its_own(tape: Tape) -> None:
    tape.phase("run", 0)
    tape.segment(2**21)
    tape.alloc(1000, Category.ACTIVATION, stream=1)
    tape.wait(0)
    tape.alloc(100, Category.ACTIVATION)
    tape.complete(0)
    entries = json.loads(chrome_trace(tape.trace()))["traceEvents"]
    curves = {
        name: [sum(entry["args"].values()) for entry in entries if entry["ph"] == "C" and entry["name"] == name]
        for name in ("requested", "allocated", "active")
    }
    assert curves == {
        "requested": [1000, 1000, 1100, 100], "allocated": [1024, 0, 512, 512], "active": [1024, 1024, 1536, 512]
    }  # fmt: skip
    assert [entry["args"].get("stream") for entry in entries if entry["ph"] == "b"] == [1, None]
