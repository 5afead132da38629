"""What was put on the card before the first step, is still there at the peak, and is read by no step: a checkpoint that
was loaded into the model and is still held."""

from __future__ import annotations

import re
from collections.abc import Iterator

from memgraph.analyze.finding import Finding
from memgraph.trace import Buffer, Held, Role, Trace
from memgraph.units import format_bytes

_WHOLE = re.compile(r"\[[^\]]*\]|[^\[]+")
"""The parts of a name: `ck`, `['model']`, `['layers.0.weight']`."""
_CHECKPOINTS = ("dict", "OrderedDict")
"""What a checkpoint is. A model that no step calls is none: its turn may come."""
_SHOWS = 0.05
"""Share of the peak from which on it is told."""


def unread(trace: Trace) -> tuple[Finding, ...]:
    """What is loaded and not read, by the variable that holds it; nothing where no name is known to hold it."""
    rows: dict[str, list[tuple[int, Held]]] = {}
    for buffer, held in _candidates(trace):
        rows.setdefault(_variable(held.name), []).append((buffer, held))
    found = [_finding(trace, name, held) for name, held in rows.items()]
    return tuple(one for one in found if one.bytes >= _SHOWS * trace.peak.requested)


def _candidates(trace: Trace) -> Iterator[tuple[int, Held]]:
    if not trace.held or not any(phase.name == "optimizer" for phase in trace.phases):
        return
    by_buffer = {buffer: held for held in trace.held for buffer in held.buffers}
    first = next(phase.start for phase in trace.phases if phase.step)
    starts, stops = trace.spans
    loaded = [
        index for index, held in sorted(by_buffer.items()) if held.kind in _CHECKPOINTS
        and starts[index] < first <= trace.peak.event < stops[index] and _is_result(trace.buffers[index])
    ]  # fmt: skip
    read = _read_in_steps(trace) if loaded else set()  # which walks through the whole run
    for index in loaded:
        if trace.buffers[index].op not in read:
            yield index, by_buffer[index]


def _is_result(buffer: Buffer) -> bool:
    return buffer.role is Role.OUTPUT and not buffer.name


def _read_in_steps(trace: Trace) -> set[int]:
    """Ops of the time before the first step whose results a step reads, itself or through a view."""
    owners = {buffer.op for buffer in trace.buffers}
    read = {other for op in trace.ops if trace.phases[op.phase].step for other in op.reads}
    for index in range(len(trace.ops) - 1, -1, -1):
        if index in read and index not in owners:  # a view, or an op in place: it is of what it reads first
            read.update(trace.ops[index].reads[:1])
    return read


def _variable(name: str) -> str:
    """What can be let go of as a whole: `ck` of `ck['model']`, `self.state` of `self.state['model']`."""
    return name.partition("[")[0]


def _finding(trace: Trace, name: str, rows: list[tuple[int, Held]]) -> Finding:
    size = sum(trace.buffers[buffer].size for buffer, _ in rows)
    op = trace.buffers[rows[0][0]].op
    source = trace.ops[op].source if op >= 0 else rows[0][1].source
    names = [_WHOLE.findall(held.name) for _, held in rows]
    place = "".join(part for part, *others in zip(*names, strict=False) if {part} == {*others, part})
    return Finding(
        "loaded-and-unread",
        f"{format_bytes(size)} were put on the card at {source}, before the first step, and no step reads them: "
        f"{len(rows):,} tensors in `{place}`.",
        source,
        f"held by the {'attribute' if '.' in name else 'variable'} `{name}`",
        f"`del {name}` once it is copied into the model, or load it to the host: map_location='cpu'",
        size,
    )
