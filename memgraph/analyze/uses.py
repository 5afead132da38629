"""Which op made what another reads, through views of it; and of several kinds of buffers the largest's op."""

from __future__ import annotations

from collections.abc import Sequence

from memgraph.trace import Op, Trace
from memgraph.trace.alike import Alike


def makers(trace: Trace) -> list[int]:
    """By each op the one that allocated its result: itself, or what it is a view of, or wrote into."""
    owners = {buffer.op for buffer in trace.buffers}
    found: list[int] = []
    for number, op in enumerate(trace.ops):
        found.append(number if number in owners or not op.reads else found[op.reads[0]])
    return found


def first_readers(trace: Trace) -> dict[int, int]:
    """By each op the first one of a step that reads its result, itself or through a view."""
    made = makers(trace)
    found: dict[int, int] = {}
    for number, op in enumerate(trace.ops):
        if trace.phases[op.phase].step and made[number] == number:
            for read in op.reads:
                found.setdefault(made[read], number)
    return found


def largest(trace: Trace, kinds: Sequence[Alike]) -> Op:
    """The op that made the largest single buffer of these kinds; all of them are made by ops."""
    sizes = trace.sizes.__getitem__
    index = max((max(kind.rows, key=sizes) for kind in kinds), key=lambda index: (sizes(index), -index))
    return trace.ops[trace.buffers[index].op]
