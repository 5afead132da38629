"""A recording that began late is laid beside the same steps of a prediction."""

from __future__ import annotations

import dataclasses
import gzip
from pathlib import Path

import pytest
import torch
from torch import nn

import memgraph
from memgraph.analyze.compare import compare
from memgraph.analyze.window import part
from memgraph.render import table_check
from memgraph.trace import Trace
from tests import DATA


@pytest.fixture(scope="module")
def four() -> Trace:
    """Four steps with Adam; the state is made in the first, and each has a batch of its own size."""
    with memgraph.virtual_gpu("h200") as gpu:
        net = nn.Sequential(nn.Linear(512, 1024), nn.ReLU(), nn.Linear(1024, 512)).cuda()
        update = torch.optim.Adam(net.parameters())
        for step in range(4):
            net(torch.randn(64 + 8 * step, 512, device="cuda")).sum().backward()
            update.step()
            update.zero_grad()
    return gpu.trace


def late(trace: Trace, first: int, last: int) -> Trace:
    """What a recording of these steps has."""
    spans = [(phase.start, phase.stop) for phase in trace.phases if first <= phase.step <= last]
    return dataclasses.replace(part(trace, spans[0][0], spans[-1][1]), origin="measured")


@pytest.mark.parametrize(("first", "last"), [(2, 2), (3, 3), (2, 3), (4, 4), (3, 4)])
def test_the_steps_are_found(first: int, last: int, four: Trace) -> None:
    found = compare(four, late(four, first, last))
    assert found.steps == (first, last)
    assert found.matched == found.predicted == found.measured and not found.lifetimes and not found.differences
    assert all(figure.ratio == 1 for figure in found.peaks)
    assert "began with memory in use" in table_check.report(found, 3)


def test_a_whole_recording_is_compared_as_a_whole(four: Trace) -> None:
    found = compare(four, dataclasses.replace(four, origin="measured"))
    assert found.steps is None and found.matched == found.measured


def test_a_part_holds_what_was_there(four: Trace) -> None:
    """Weights and two moments: 512 × 1024 + 1024 + 1024 × 512 + 512 floats each, and a step count of each of four."""
    start = next(phase.start for phase in four.phases if phase.step == 3)
    window = part(four, start, len(four.events))
    assert window.peak[:3] == four.peak[:3]
    front = window.phases[0]
    assert front[:3] == ("before", 0, 0)
    assert window.usage[0][front.stop - 1] >= 3 * 4 * (2 * 512 * 1024 + 1024 + 512)


def test_a_real_window_is_the_second_step(tmp_path: Path) -> None:
    """Recorded on an H200 from the second step on: 537 allocations, those that were there among them."""
    from benchmarks.accuracy import snapshots

    with memgraph.virtual_gpu("h200", torch="2.11") as gpu:
        snapshots.train("gpt", lambda _: None)
    path = tmp_path / "window.pickle"
    path.write_bytes(gzip.decompress((DATA / "snapshots" / "window.pickle.gz").read_bytes()))
    found = compare(gpu.trace, memgraph.load(path))
    assert (found.steps, found.matched, found.predicted, found.measured) == ((2, 2), 537, 537, 537)
    assert not found.lifetimes and found.peaks[0].ratio == 1
