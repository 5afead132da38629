"""What was put on the card, is still there at the peak, and is read by no step: a checkpoint that was loaded into the
model and is still held, or the best weights so far."""

from __future__ import annotations

import re
from bisect import bisect_left
from collections.abc import Iterator, Sequence

from memgraph.analyze.finding import Finding
from memgraph.analyze.steps import Kind, step_ends, steps
from memgraph.trace import Buffer, Held, Role, Trace
from memgraph.units import format_bytes

_WHOLE = re.compile(r"\[[^\]]*\]|[^\[]+")
"""The parts of a name: `ck`, `['model']`, `['layers.0.weight']`."""
_CHECKPOINTS = ("dict", "OrderedDict")
"""What a checkpoint is. A model that no step calls is none: its turn may come."""
_SHOWS = 0.05
"""Share of the peak from which on it is told."""


def unread(trace: Trace) -> tuple[Finding, ...]:
    """What is loaded and not read, by the variable that holds it; nothing where no name is known to hold it, or where
    what it holds grows: then each step puts something there."""
    rows: dict[str, list[tuple[int, Held]]] = {}
    for buffer, held in _candidates(trace):
        rows.setdefault(_variable(held.name), []).append((buffer, held))
    grows = {_variable(kind.held.name) for kind in _growing(trace) if kind.held} if rows else set()
    found = [_finding(trace, name, held) for name, held in rows.items() if name not in grows]
    return tuple(one for one in found if one.bytes >= _SHOWS * trace.peak.requested)


def _growing(trace: Trace) -> Sequence[Kind]:
    found = steps(trace)
    return found.kinds if found else ()


def _candidates(trace: Trace) -> Iterator[tuple[int, Held]]:
    if not trace.held or not any(phase.name == "optimizer" for phase in trace.phases):
        return
    by_buffer = {buffer: held for held in trace.held for buffer in held.buffers}
    starts, stops = trace.spans
    ends = step_ends(trace)
    loaded = [
        index for index, held in sorted(by_buffer.items()) if held.kind in _CHECKPOINTS
        and starts[index] < trace.peak.event < stops[index] and _is_result(trace.buffers[index])
        and _outlives(trace, ends, index)
    ]  # fmt: skip
    read = _read_later(trace) if loaded else {}  # which walks through the whole run
    for index in loaded:
        made = trace.buffers[index].op
        if made < 0 or read.get(made, -1) <= trace.ops[made].phase:
            yield index, by_buffer[index]


def _outlives(trace: Trace, ends: Sequence[int], index: int) -> bool:
    """Whether it was put there between two steps, or before the first, and a whole step went by since: the batch of a
    step is let go of when the next one's comes."""
    start, stop = (column[index] for column in trace.spans)
    phase = trace.phase_at(start)
    after = bisect_left(ends, start)
    return not phase.step or (phase.name == "input" and after + 1 < len(ends) and stop > ends[after + 1])


def _is_result(buffer: Buffer) -> bool:
    return buffer.role is Role.OUTPUT and not buffer.name


def _read_later(trace: Trace) -> dict[int, int]:
    """By each op the last phase of a step in which its result is read, itself or through a view. What is loaded is
    copied into the model in the phase in which it was loaded."""
    owners = {buffer.op for buffer in trace.buffers}
    read: dict[int, int] = {}
    for index in range(len(trace.ops) - 1, -1, -1):
        op = trace.ops[index]
        phase = op.phase if trace.phases[op.phase].step else -1
        for place, other in enumerate(op.reads):
            through = read.get(index, -1) if not place and index not in owners else -1  # a view, or an op in place
            read[other] = max(phase, through, read.get(other, -1))
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
    step = trace.phase_at(trace.spans[0][rows[0][0]]).step
    when = f"between steps {step - 1} and {step}" if step > 1 else "before the first step"
    return Finding(
        "loaded-and-unread",
        f"{format_bytes(size)} were put on the card at {source}, {when}, and no step reads them: "
        f"{len(rows):,} tensors in `{place}`.",
        source,
        f"held by the {'attribute' if '.' in name else 'variable'} `{name}`",
        f"`del {name}` once it is copied into the model, or have it on the host: map_location='cpu', `.cpu()`",
        size,
    )
