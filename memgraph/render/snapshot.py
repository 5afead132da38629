"""A run as a memory snapshot in PyTorch's own format, for pytorch.org/memory_viz and `torch.cuda._memory_viz`.

What a snapshot holds is documented in torch/cuda/memory.py (`_snapshot`): the segments as they are at the end, each
with its blocks, and the events that led there. A viewer walks back from the end through the events.
"""

from __future__ import annotations

import bisect
import functools
import pickle
from collections.abc import Iterator
from typing import Any, NamedTuple

from memgraph.analyze.bands import short_op
from memgraph.analyze.streams import owners_of_segments
from memgraph.trace import Action, Category, Trace

_LARGE = 2**20
"""Bytes from which on a request comes from the large pool: `kSmallSize` of CUDACachingAllocator."""
_KINDS = {
    Category.PARAMETER: "parameter", Category.GRADIENT: "gradient", Category.OPTIMIZER: "optimizer_state",
    Category.BUFFER: "parameter", Category.CACHE: "activation",
    Category.ACTIVATION: "activation", Category.INPUT: "input", Category.TEMPORARY: "temporary",
    Category.WORKSPACE: "temporary", Category.COMMUNICATION: "temporary", Category.UNSHARDED: "parameter",
    Category.UNKNOWN: "unknown",
}  # fmt: skip
"""The names of torch.profiler._memory_profiler.Category."""

_NAMES = {
    Action.ALLOC: ("alloc",), Action.FREE: ("free_requested", "free_completed"),
    Action.FREE_REQUESTED: ("free_requested",), Action.FREE_COMPLETED: ("free_completed",),
}  # fmt: skip

Frame = dict[str, Any]


def pickled(trace: Trace) -> bytes:
    """The file's content."""
    return pickle.dumps(snapshot(trace), protocol=4)


def snapshot(trace: Trace) -> dict[str, Any]:
    """The snapshot at the end of a run: its segments sum to `trace.usage_at(last).reserved`."""
    frames = _Frames(trace)
    return {
        "segments": _segments(trace, frames),
        "device_traces": [list(_events(trace, frames))],
        "allocator_settings": {},
        "external_annotations": [],
    }


class _Frames:
    """Where each buffer comes from, as the frames of a call stack, the innermost first. Equal ones are one object."""

    def __init__(self, trace: Trace) -> None:
        self.trace = trace
        self.of_op = functools.cache(self._of_op)
        self.of_text = functools.cache(_frame)

    def of_buffer(self, index: int) -> list[Frame]:
        """What it is, the op, the module, the line."""
        buffer = self.trace.buffers[index]
        named = [self.of_text(buffer.name, "", 0)] if buffer.name else []
        return named + self.of_op(buffer.op)

    def _of_op(self, number: int) -> list[Frame]:
        if number < 0:
            return [self.of_text("outside any op", "", 0)]
        op = self.trace.ops[number]
        file, _, line = op.source.rpartition(":")
        place = (file, int(line)) if line.isdecimal() else (op.source, 0)
        inner = {
            **_frame(short_op(op.name), *place), "fx_node_op": "call_function",
            "fx_node_name": f"{short_op(op.name)}_{number}", "fx_node_target": op.name, "fx_original_trace": op.source,
        }  # fmt: skip
        phase = self.trace.phases[op.phase]
        outer = [self.of_text(op.module, "module", 0)] if op.module else []
        return [inner, *outer, self.of_text(f"{phase.name} {phase.step}", "phase", 0)]


def _frame(name: str, file: str, line: int) -> Frame:
    return {"filename": file or "memgraph", "line": line, "name": name}


def _events(trace: Trace, frames: _Frames) -> Iterator[dict[str, Any]]:
    """The allocator's events, with sizes as they were asked for, as torch notes them. A free is asked for and done at
    once, unless the block waits for other streams."""
    nowhere = frames.of_op(-1)
    owners = owners_of_segments(trace)
    for time, event in enumerate(trace.events):
        stream = owners.get(time, 0) if event.buffer < 0 else trace.buffers[event.buffer].stream
        about = {"addr": event.address, "stream": stream, "time_us": time, "device": 0, "compile_context": "N/A",
                 "user_metadata": ""}  # fmt: skip
        if event.action in _NAMES:
            buffer = trace.buffers[event.buffer]
            about |= {
                "size": buffer.size,
                "frames": frames.of_buffer(event.buffer),
                "category": _KINDS[buffer.category],
            }
            yield from ({"action": name, **about} for name in _NAMES[event.action])
        elif event.action == Action.OUT_OF_MEMORY:
            left = max(0, trace.memory - trace.usage[2][time])
            yield {"action": "oom", **about, "size": event.size, "device_free": left, "frames": nowhere}
        else:
            name = "segment_alloc" if event.action == Action.SEGMENT_ALLOC else "segment_free"
            yield {"action": name, **about, "size": event.size, "frames": nowhere}


def _segments(trace: Trace, frames: _Frames) -> list[dict[str, Any]]:
    """What is reserved at the end, by address, each with the blocks in it and the gaps between."""
    sizes, streams = _reserved(trace)
    freed = _freed(trace)
    starts = sorted(sizes)
    inside: dict[int, list[_Held]] = {start: [] for start in starts}
    for index in trace.live_at(len(trace.events) - 1):
        _, _, _, address, size = trace.events[trace.spans[0][index]]
        place = bisect.bisect_right(starts, address) - 1
        if place >= 0 and address + size <= starts[place] + sizes[starts[place]]:
            inside[starts[place]].append(_Held(address, size, index, index in freed))
    return [
        {**_segment(trace, frames, start, sizes[start], sorted(inside[start])), "stream": streams[start]}
        for start in starts
    ]


class _Held(NamedTuple):
    """A block at the end."""

    address: int
    size: int
    buffer: int
    freed: bool
    """It waits for other streams."""


def _freed(trace: Trace) -> set[int]:
    """Buffers that were freed and waited for other streams."""
    actions, buffers = trace.events.columns[:2]
    if not trace.waits:
        return set()
    return {buffer for action, buffer in zip(actions, buffers, strict=True) if action == Action.FREE_REQUESTED}


def _reserved(trace: Trace) -> tuple[dict[int, int], dict[int, int]]:
    """Bytes and stream of each segment at the end by its address. Pieces that were mapped one after another stay
    apart."""
    sizes: dict[int, int] = {}
    streams: dict[int, int] = {}
    owners = owners_of_segments(trace)
    for place, event in enumerate(trace.events):
        if event.action == Action.SEGMENT_ALLOC:
            sizes[event.address], streams[event.address] = event.size, owners.get(place, 0)
        elif event.action == Action.SEGMENT_FREE:
            sizes.pop(event.address, None)
    return sizes, streams


def _segment(trace: Trace, frames: _Frames, start: int, size: int, inside: list[_Held]) -> dict[str, Any]:
    blocks, at = [], start
    for address, length, index, freed in inside:
        blocks += _gap(at, address)
        blocks.append({
            "address": address, "size": length, "requested_size": trace.buffers[index].size,
            "state": "active_pending_free" if freed else "active_allocated", "frames": frames.of_buffer(index),
            "category": _KINDS[trace.buffers[index].category],
        })  # fmt: skip
        at = address + length
    blocks += _gap(at, start + size)
    active = sum(held.size for held in inside)
    return {
        "device": 0, "address": start, "total_size": size, "active_size": active,
        "allocated_size": sum(held.size for held in inside if not held.freed),
        "requested_size": sum(trace.buffers[held.buffer].size for held in inside),
        "segment_type": "small" if size <= 2 * _LARGE else "large", "segment_pool_id": (0, 0), "is_expandable": False,
        "frames": [], "blocks": blocks,
    }  # fmt: skip


def _gap(start: int, stop: int) -> list[dict[str, Any]]:
    if stop <= start:
        return []
    return [{"address": start, "size": stop - start, "requested_size": 0, "state": "inactive", "frames": []}]
