"""Recorded runs as small files: what was asked and what was freed, in order. Addresses are not kept, because the
allocator model reproduces each of them from those of the segments, which are.

    python -m benchmarks.recordings.packed pack FOLDER benchmarks/recordings/nanovlm    from those of record_runs.py
    python -m benchmarks.recordings.packed addresses RUN.json.gz OUT.json.gz            each block's address, for a test
"""

from __future__ import annotations

import dataclasses
import gzip
import json
import sys
from array import array
from bisect import bisect_right
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from memgraph.gpu.allocator.blocks import Block
from memgraph.gpu.allocator.caching import Allocator
from memgraph.gpu.allocator.segments import RecordedAddresses, SegmentAddresses
from memgraph.options import Options
from memgraph.trace import Action, Buffer, Event, Events, Phase, Trace, Usage

FOLDER = Path(__file__).parent / "nanovlm"
_SEGMENTS = (Action.SEGMENT_ALLOC, Action.SEGMENT_FREE)


def as_columns(trace: Trace) -> dict[str, Any]:
    """A measured trace as record_runs.py writes it: every allocator event, by columns."""
    actions, buffers, _, addresses, sizes = (column.tolist() for column in trace.events.columns)
    streams = [buffer.stream for buffer in trace.buffers]
    return {
        "settings": dict(trace.settings), "gpu": trace.gpu, "torch": trace.torch,
        "phases": [list(phase) for phase in trace.phases], "actions": actions, "buffers": buffers,
        "addresses": addresses, "sizes": sizes, "requested": [buffer.size for buffer in trace.buffers],
        **({"streams": streams} if any(streams) else {}),
    }  # fmt: skip


def write(path: Path, run: Mapping[str, Any]) -> None:
    """As compressed JSON: the same bytes for the same run, whenever it is written."""
    path.write_bytes(gzip.compress(json.dumps(run, separators=(",", ":")).encode(), 9, mtime=0))


def pack(run: Mapping[str, Any]) -> dict[str, Any]:
    """A run of record_runs.py without what can be derived: a free names its buffer by its place among the living. The
    streams of its buffers are kept where there are several."""
    live: list[int] = []
    freed = []
    for action, buffer in zip(run["actions"], run["buffers"], strict=True):
        if action == Action.ALLOC:
            live.append(buffer)
        elif action in (Action.FREE, Action.FREE_REQUESTED, Action.FREE_COMPLETED):
            place = len(live) - 1 - live[::-1].index(buffer)
            freed.append(len(live) - 1 - place)
            if action != Action.FREE_REQUESTED:
                del live[place]
    segments = [
        (address, size)
        for action, address, size in zip(run["actions"], run["addresses"], run["sizes"], strict=True)
        if action in _SEGMENTS
    ]
    kept = {name: run[name] for name in ("settings", "gpu", "torch", "phases", "actions", "requested")}
    compiled = {name: run[name] for name in ("benchmarks", "padded", "streams") if name in run}
    return {**kept, **compiled, "freed": freed, "segments": segments}


def read(path: Path, torch: str | None = None) -> Trace:
    """A packed run as a measured trace, of its own torch or as if another's allocator had served it."""
    return unpack(json.loads(gzip.decompress(path.read_bytes())), torch)


def unpack(run: Mapping[str, Any], torch: str | None = None) -> Trace:
    """The same, decompressed. Blocks come from the allocator model, given the recorded segments."""
    version = version_of(torch or run["torch"])
    allocator = Allocator(2**50, addresses=RecordedAddresses(_placed(run)), torch=version)
    events = Events()
    segments = iter(run["segments"])
    requests = iter(enumerate(run["requested"]))
    streams = run.get("streams") or [0] * len(run["requested"])
    freed = iter(run["freed"])
    live: list[tuple[int, Any]] = []
    for action in map(Action, run["actions"]):
        if action == Action.ALLOC:
            index, size = next(requests)
            live.append((index, allocator.malloc(size, streams[index])))
            events.append(_event(action, *live[-1]))
        elif action in (Action.FREE, Action.FREE_REQUESTED, Action.FREE_COMPLETED):
            place = len(live) - 1 - next(freed)
            events.append(_event(action, *live[place]))
            _return(allocator, action, live[place][1])
            if action != Action.FREE_REQUESTED:
                del live[place]
        else:
            address, size = next(segments)
            events.append(Event(action, -1, -1, address, size))
    return Trace(
        origin="measured", gpu=run["gpu"], memory=2**50, torch=run["torch"], settings=run["settings"], ops=(),
        buffers=tuple(Buffer(size, -1, stream=stream) for size, stream in zip(run["requested"], streams, strict=True)),
        events=events,
        phases=tuple(Phase(*phase) for phase in run["phases"]),
    )  # fmt: skip


def _return(allocator: Allocator, action: Action, block: Block) -> None:
    if action == Action.FREE_COMPLETED:
        allocator.complete(block)
    else:
        allocator.free(block, wait=action == Action.FREE_REQUESTED)


def allocated_by(trace: Trace, torch: str, addresses: SegmentAddresses | None = None) -> tuple[Usage, Usage]:
    """Memory after load and the highest, if the caching allocator of that torch served the trace's requests: which of
    equal blocks serves depends on the version."""
    allocator = Allocator(trace.memory, torch=version_of(torch), addresses=addresses)
    load = max((phase.stop for phase in trace.phases if phase.name == "load"), default=0)
    blocks: dict[int, Block] = {}
    after_load = Usage(0, 0, 0)
    actions, buffers = trace.events.columns[:2]
    for place, (action, buffer) in enumerate(zip(actions, buffers, strict=True)):
        if place == load:
            after_load = Usage(allocator.requested, allocator.allocated, allocator.reserved)
        if action == Action.ALLOC:
            blocks[buffer] = allocator.malloc(trace.buffers[buffer].size, trace.buffers[buffer].stream)
        elif action in (Action.FREE, Action.FREE_REQUESTED, Action.FREE_COMPLETED):
            _return(allocator, Action(action), blocks[buffer])
    return after_load, Usage(allocator.peak_requested, allocator.peak_allocated, allocator.peak_reserved)


def options_of(settings: Mapping[str, Any]) -> Options:
    """The options of a recorded run of a model, on the H200."""
    names = [field.name for field in dataclasses.fields(Options) if field.name in settings and field.name != "gpu"]
    return Options(gpu="h200", **{name: settings[name] for name in names})


def version_of(torch: str) -> tuple[int, int]:
    """`2.11.0+cu130` as (2, 11)."""
    major, minor = torch.split(".")[:2]
    return int(major), int(minor)


def _event(action: Action, index: int, block: Any) -> Event:
    return Event(action, index, -1, block.address, block.size)


def _placed(run: Mapping[str, Any]) -> Iterator[int]:
    segments = array("q", (action for action in run["actions"] if action in _SEGMENTS))
    for action, (address, _) in zip(segments, run["segments"], strict=True):
        if action == Action.SEGMENT_ALLOC:
            yield address


def addresses(run: Mapping[str, Any]) -> dict[str, list[int]]:
    """Where each allocation went: the number of its segment, in order of address, and 512-byte units into it."""
    rows = list(zip(run["actions"], run["addresses"], strict=True))
    starts = sorted(address for action, address in rows if action == Action.SEGMENT_ALLOC)
    places = [address for action, address in rows if action == Action.ALLOC]
    segments = [bisect_right(starts, address) - 1 for address in places]
    offsets = [(address - starts[segment]) // 512 for address, segment in zip(places, segments, strict=True)]
    return {"segments": starts, "segment": segments, "offset": offsets}


def main() -> None:
    command, source, target = sys.argv[1:]
    if command == "addresses":
        write(Path(target), addresses(json.loads(gzip.decompress(Path(source).read_bytes()))))
        return
    for path in sorted(Path(source).glob("*.json.gz")):
        write(Path(target) / path.name, pack(json.loads(gzip.decompress(path.read_bytes()))))


if __name__ == "__main__":
    main()
