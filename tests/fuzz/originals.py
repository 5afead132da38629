"""Files and texts of each kind that memgraph reads, and how each is read."""

from __future__ import annotations

import gzip
import struct
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import memgraph
from memgraph.analyze import baseline
from memgraph.files.refusal_text import parse_refusal
from memgraph.gpu import card_file
from memgraph.gpu.specs import find
from memgraph.plan.plan_file import Plan, Region, load_plan
from memgraph.plan.times import MeasuredTimes, Row, load_times
from memgraph.render.snapshot import pickled
from memgraph.trace import Trace
from tests import DATA

Read = Callable[[Path], object]


class Original(NamedTuple):
    """What is damaged."""

    content: bytes
    read: Read
    packed: bool = False
    """It is compressed after it was damaged."""


def _card(path: Path) -> object:
    return card_file.read(str(path), lambda name: find(name) if name == "h200" else None)


def _refusal(path: Path) -> object:
    return parse_refusal(path.read_text(encoding="utf-8", errors="replace"))


def _monitor(path: Path) -> object:
    """As the command does: what is read is compared."""
    found = baseline.read(path)
    return baseline.moved(found, found).figures["requested"]


REFUSAL = (
    b"torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2.50 GiB. GPU 0 has a total capacity of 79.25 GiB "
    b"of which 1.12 GiB is free. Process 123 has 10.00 GiB memory in use. Of the allocated memory 60.25 GiB is "
    b"allocated by PyTorch, and 7.88 GiB is reserved by PyTorch but unallocated."
)
PRINTED = (
    b"Attached GPUs : 1\nGPU 00000000:01:00.0\n    Product Name : NVIDIA H200\n    FB Memory Usage\n"
    b"        Total : 143771 MiB\n        Reserved : 500 MiB\n        Used : 0 MiB\n        Free : 143271 MiB\n"
)


def hook_log() -> bytes:
    """Six records, two lines: capture/real/hook.c."""
    records = [(1024, 100, 1), (2048, 50, 1), (0, 0, 3), (1024, 100, 2), (4096, 7, 1), (4096, 7, 2)]
    body = b"".join(
        struct.pack("<QqQQiIQ", address, size, 0, number, 0, kind, number + 1)
        for number, (address, size, kind) in enumerate(records)
    )
    head = struct.pack("<8sQQQqqq8x", b"memghook", 2, 6, 6, 0, 57, 150)
    about = b'{"gpu": "NVIDIA H200", "memory": 1000, "device": 0, "torch": "2.11.0"}\n{"phase": "load", "step": 0}\n'
    return head + body + about


def originals(toy: Trace) -> list[Original]:
    """One of each kind, traces and snapshots several times."""
    path = DATA / "schema_1.memgraph"
    trace, snapshot = path.read_bytes(), (DATA / "snapshot_h200.pickle").read_bytes()
    plan = Plan((Region(("blocks.0", "blocks.1"), "matmuls"), Region(("blocks.2",), "mm 0 3, gelu 0")), 2, {"seq": 128})
    times = MeasuredTimes("NVIDIA H200", "2.11.0", "bf16", "float32", (Row("mm", ((8, 16), (16, 4)), 3, 12.5),))
    return [
        Original(gzip.decompress(trace), memgraph.load, packed=True),
        Original(trace, memgraph.load),
        Original(pickled(toy), memgraph.load),
        Original(snapshot[:20000], memgraph.load),
        Original(gzip.decompress((DATA / "snapshots" / "window.pickle.gz").read_bytes())[:30000], memgraph.load),
        Original(hook_log(), memgraph.load),
        Original(baseline.written(baseline.baseline_of(toy)), _monitor),
        Original(plan.text.encode(), load_plan),
        Original(times.text.encode(), load_times),
        Original(card_file.describe(find("h200")).encode(), _card),
        Original(PRINTED, _card),
        Original(REFUSAL, _refusal),
    ]
