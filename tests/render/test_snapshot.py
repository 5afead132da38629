"""A run as PyTorch's own memory snapshot: what torch's viewer makes of it."""

from __future__ import annotations

import pickle
import re
from pathlib import Path
from typing import Any

import pytest
from torch.cuda import _memory_viz as viz

from memgraph.files.snapshot_file import load_snapshot
from memgraph.render.snapshot import pickled, snapshot
from memgraph.trace import Action, Category, Event, Trace
from tests.conftest import Tape
from tests.render.drawn import run


@pytest.fixture(scope="module")
def taken() -> Any:
    """Through the file, as a user has it."""
    return pickle.loads(pickled(run()))


def test_segments_sum_to_what_is_reserved_at_the_end(taken: Any) -> None:
    last = run().usage_at(len(run().events) - 1)
    assert sum(segment["total_size"] for segment in taken["segments"]) == last.reserved
    assert sum(segment["allocated_size"] for segment in taken["segments"]) == last.allocated
    assert sum(segment["requested_size"] for segment in taken["segments"]) == last.requested
    for segment in taken["segments"]:
        at = segment["address"]
        for block in segment["blocks"]:  # side by side from end to end
            assert block["address"] == at
            at += block["size"]
        assert at == segment["address"] + segment["total_size"]


def test_torchs_own_segment_view_sums_to_the_same(taken: Any) -> None:
    text = viz.segsum(taken)
    total = re.search(r"Total Reserved: ([\d.]+)(\w+)", text) or re.search(r"total_reserved: ([\d.]+)(\w+)", text)
    assert total is not None, text[-500:]
    reserved = run().usage_at(len(run().events) - 1).reserved
    unit = {"B": 1, "KiB": 2**10, "MiB": 2**20, "GiB": 2**30}[total[2]]
    assert float(total[1]) * unit == pytest.approx(reserved, rel=0.05)  # it prints one decimal


def test_torchs_own_pages_render(taken: Any) -> None:
    assert "<html" in viz.trace_plot(taken).lower()
    assert "<html" in viz.segment_plot(taken).lower()
    assert viz.trace(taken)


def test_events_are_the_runs_own(taken: Any) -> None:
    (events,) = taken["device_traces"]
    names = [event["action"] for event in events]
    columns = run().events.columns
    assert names.count("alloc") == sum(action == Action.ALLOC for action in columns[0])
    assert names.count("free_completed") == names.count("free_requested") == names.count("alloc") - 3  # workspaces stay
    assert names.count("segment_alloc") == sum(action == Action.SEGMENT_ALLOC for action in columns[0])
    held, most = 0, 0
    for event in events:
        if event["action"] == "alloc":
            held += event["size"]
        elif event["action"] == "free_completed":
            held -= event["size"]
        most = max(most, held)
    assert most == run().peak.requested


def test_frames_name_op_module_line_and_category(taken: Any) -> None:
    (events,) = taken["device_traces"]
    found = next(
        e for e in events if e["action"] == "alloc" and e["frames"][0].get("fx_node_target") == "aten.silu.default"
    )
    inner, module, phase = found["frames"]
    assert inner["name"] == "silu" and inner["fx_node_name"].startswith("silu_")
    assert inner["filename"].endswith("nanovlm_language.py") and inner["line"] > 0
    assert module["name"] == "decoder.blocks.0.mlp" and phase["name"] == "forward 1"
    assert found["category"] == "activation"


def test_out_of_memory_is_an_event(tape: Tape) -> None:
    tape.phase("forward", 1)
    tape.op("aten.a.default")
    tape.segment(2**21)
    tape.alloc(512, Category.ACTIVATION)
    tape.out_of_memory(2**30)
    (events,) = snapshot(tape.trace())["device_traces"]
    assert [event["action"] for event in events] == ["segment_alloc", "alloc", "oom"]
    assert events[-1]["size"] == 2**30 and events[-1]["device_free"] == 4 * 2**20 - 2**21


# Several streams.


def several(tape: Tape) -> Trace:
    """A block of another stream's, one that waits at the end, one that came back after it waited."""
    tape.phase("run", 0)
    tape.op("aten.empty.memory_format")
    base = 2**30
    for stream in range(2):
        address = base + stream * 2**21
        tape.events.append(Event(Action.SEGMENT_ALLOC, -1, 0, address, 2**21))
        tape._address = address
        for _ in range(2):
            tape.alloc(1000, Category.ACTIVATION, stream=stream)
    tape.wait(0)
    tape.wait(1)
    tape.complete(0)
    return tape.trace()


def test_streams_and_what_waits_for_them(tape: Tape) -> None:
    taken = snapshot(several(tape))
    first, second = taken["segments"]
    assert (first["stream"], first["allocated_size"], first["active_size"]) == (0, 0, 1024)
    assert (second["stream"], second["allocated_size"], second["active_size"]) == (1, 2048, 2048)
    assert [block["state"] for block in first["blocks"]] == ["inactive", "active_pending_free", "inactive"]
    assert [(entry["action"], entry["stream"]) for entry in taken["device_traces"][0]] == [
        ("segment_alloc", 0), ("alloc", 0), ("alloc", 0), ("segment_alloc", 1), ("alloc", 1), ("alloc", 1),
        ("free_requested", 0), ("free_requested", 0), ("free_completed", 0),
    ]  # fmt: skip


def test_they_are_read_back(tape: Tape, tmp_path: Path) -> None:
    trace, path = several(tape), tmp_path / "run.pickle"
    path.write_bytes(pickled(trace))
    back = load_snapshot(path)
    assert [buffer.stream for buffer in back.buffers] == [0, 0, 1, 1]
    assert [list(column) for column in back.events.columns[:2]] == [list(column) for column in trace.events.columns[:2]]
    assert list(back.active) == list(trace.active) and back.usage == trace.usage
