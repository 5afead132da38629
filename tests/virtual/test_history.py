"""`_record_memory_history`, `_snapshot` and `_dump_snapshot`: what they write is torch's own format."""

from __future__ import annotations

import pickle
from pathlib import Path

import pytest
import torch
from torch.cuda._memory_viz import segsum, trace_plot

import memgraph
from memgraph.trace import Trace


def recorded(path: Path) -> dict[str, object]:
    """A block of 1,000 bytes before, two of 2,000 and 3,000 after the recording begins, of which the first is freed."""
    before = torch.zeros(250, device="cuda")
    torch.cuda.memory._record_memory_history()
    first, second = torch.zeros(500, device="cuda"), torch.zeros(750, device="cuda")
    del first
    torch.cuda.memory._dump_snapshot(str(path))
    torch.cuda.memory._record_memory_history(enabled=None)
    assert torch.cuda.memory._snapshot()["device_traces"] == [[]]
    del before, second
    with path.open("rb") as file:
        return pickle.load(file)


def test_a_dumped_snapshot_has_the_events_since_the_recording_began(tmp_path: Path) -> None:
    with memgraph.virtual_gpu("h100"):
        snapshot = recorded(tmp_path / "snapshot.pickle")
    (events,) = snapshot["device_traces"]  # type: ignore[misc]
    assert [(event["action"], event["size"]) for event in events] == [
        ("alloc", 2000), ("alloc", 3000), ("free_requested", 2000), ("free_completed", 2000),
    ]  # fmt: skip
    assert all(event["frames"][0]["filename"].endswith("test_history.py") for event in events)
    (segment,) = snapshot["segments"]  # type: ignore[misc]
    assert (segment["total_size"], segment["allocated_size"]) == (2**21, 1024 + 3072)
    framed = [block["requested_size"] for block in segment["blocks"] if block["frames"]]
    assert framed == [3000]  # what was there before the recording has no stack


def test_torchs_viewers_and_memgraph_read_it(tmp_path: Path) -> None:
    path = tmp_path / "snapshot.pickle"
    with memgraph.virtual_gpu("h100"):
        snapshot = recorded(path)
    assert "snapshot" in trace_plot(snapshot) or len(trace_plot(snapshot)) > 1000
    assert "2.0MiB" in segsum(snapshot)
    trace = memgraph.load(path)
    assert isinstance(trace, Trace)
    assert trace.peak.requested == 1000 + 2000 + 3000


def test_the_last_events_are_kept_where_there_is_a_limit() -> None:
    with memgraph.virtual_gpu("h100"):
        torch.cuda.memory._record_memory_history(max_entries=2)
        held = [torch.zeros(size, device="cuda") for size in (100, 200, 300)]
        (events,) = torch.cuda.memory._snapshot()["device_traces"]
        assert [event["size"] for event in events] == [800, 1200]
        torch.cuda.memory._record_memory_history("state")
        assert torch.cuda.memory._snapshot()["device_traces"] == [[]]
        with pytest.raises(ValueError, match="expected state to be"):
            torch.cuda.memory._record_memory_history("everything")  # type: ignore[arg-type]
        held.clear()
