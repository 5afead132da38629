"""A run as a Chrome trace, which ui.perfetto.dev and chrome://tracing open: counters, phases, ops, large buffers.

The format is Google's "Trace Event Format". The clock of a trace is its events: one event is one microsecond.
"""

from __future__ import annotations

import itertools
import json
from collections import Counter
from collections.abc import Iterator
from typing import Any

from memgraph.analyze.attribution import describe
from memgraph.analyze.bands import STACK, op_of, short_op
from memgraph.analyze.tell import headline
from memgraph.trace import Trace

_LARGEST = 400
"""Buffers that get a slice each."""
_PHASES, _OPS = 1, 2
_PROCESS = 1

Entry = dict[str, Any]


def chrome_trace(trace: Trace) -> bytes:
    """The file's content."""
    entries = [*_titles(trace), *_phases(trace), *_ops(trace), *_counters(trace), *_buffers(trace)]
    return json.dumps({"traceEvents": entries, "displayTimeUnit": "ms"}, separators=(",", ":")).encode()


def _titles(trace: Trace) -> Iterator[Entry]:
    yield {"ph": "M", "pid": _PROCESS, "name": "process_name", "args": {"name": headline(trace)}}
    for thread, name in ((_PHASES, "phases"), (_OPS, "ops")):
        yield {"ph": "M", "pid": _PROCESS, "tid": thread, "name": "thread_name", "args": {"name": name}}


def _slice(thread: int, name: str, start: int, stop: int, **about: Any) -> Entry:
    return {"ph": "X", "pid": _PROCESS, "tid": thread, "name": name, "ts": start, "dur": stop - start, "args": about}


def _phases(trace: Trace) -> Iterator[Entry]:
    for phase in trace.phases:
        yield _slice(_PHASES, f"{phase.name} {phase.step}", phase.start, phase.stop)


def _ops(trace: Trace) -> Iterator[Entry]:
    """Each op from its first event to its last."""
    start = 0
    for number, group in itertools.groupby(trace.events.columns[2]):
        stop = start + sum(1 for _ in group)
        if number >= 0:
            op = trace.ops[number]
            yield _slice(_OPS, short_op(op.name), start, stop, module=op.module, source=op.source)
        start = stop


def _counters(trace: Trace) -> Iterator[Entry]:
    """Requested bytes by category, stacked; allocated, reserved, and where blocks waited for other streams active, as
    lines of their own."""
    held: Counter[str] = Counter({str(category): 0 for category in STACK})
    requested, allocated, reserved = trace.usage
    for time, event in enumerate(trace.events):
        if event.buffer >= 0:
            held[str(trace.buffers[event.buffer].category)] += requested[time] - (requested[time - 1] if time else 0)
            yield _counter("requested", time, dict(held))
            yield _counter("allocated", time, {"bytes": allocated[time]})
            if trace.waits:
                yield _counter("active", time, {"bytes": trace.active[time]})
        else:
            yield _counter("reserved", time, {"bytes": reserved[time]})


def _counter(name: str, time: int, values: dict[str, int]) -> Entry:
    return {"ph": "C", "pid": _PROCESS, "name": name, "ts": time, "args": values}


def _buffers(trace: Trace) -> Iterator[Entry]:
    """The largest, each from its allocation to its end, on tracks of their own."""
    largest = sorted(range(len(trace.buffers)), key=lambda index: -trace.buffers[index].size)[:_LARGEST]
    for index in sorted(largest):
        buffer, life = trace.buffers[index], trace.life(index)
        name = describe(buffer, op_of(trace, buffer), layered=False)
        about: Entry = {"bytes": buffer.size, "shape": list(buffer.shape), "dtype": buffer.dtype}
        if buffer.stream:
            about["stream"] = buffer.stream
        both = {"pid": _PROCESS, "cat": str(buffer.category), "id": index, "name": name}
        yield {"ph": "b", "ts": life.start, "args": about, **both}
        yield {"ph": "e", "ts": life.stop, **both}
