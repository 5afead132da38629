"""Ranks recorded on two H200, every allocator event with its stream. See tests/data/README.md."""

from __future__ import annotations

import gzip
import json
from functools import cache
from typing import Any

from memgraph.files import snapshot_file
from memgraph.trace import Phase, Trace
from tests import ROOT

MIB = 2**20
RANKS = ("fsdp2", "pipeline")
KINDS = ("requested", "allocated", "active", "reserved")


@cache
def recorded(rank: str) -> tuple[Trace, dict[str, int]]:
    """The run, and torch's own highest figures. One small segment was there before the recording began: its first
    block lies at the start of it."""
    path = ROOT / "tests" / "data" / f"streams_h200x2_{rank}.json.gz"
    data: dict[str, Any] = json.loads(gzip.decompress(path.read_bytes()))
    rows = list(zip(*data["events"], strict=True))
    rows.insert(0, ("segment_alloc", rows[0][1], 2 * MIB, 0))
    entries = [dict(zip(("action", "addr", "size", "stream"), row, strict=True)) for row in rows]
    history = snapshot_file.read({"device_traces": [entries]}, 0)
    trace = Trace(
        origin="measured", gpu=data["gpu"], memory=141 * 2**30, torch=data["torch"], settings={}, ops=(),
        buffers=history.buffers, events=history.events, phases=(Phase("recorded", 1, 0, len(history.events)),),
    )  # fmt: skip
    return trace, {kind: data[kind] for kind in KINDS}
