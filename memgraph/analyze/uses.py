"""Which op made what another reads, through views of it."""

from __future__ import annotations

from memgraph.trace import Trace


def makers(trace: Trace) -> list[int]:
    """By each op the one that allocated its result: itself, or what it is a view of, or wrote into."""
    owners = {buffer.op for buffer in trace.buffers}
    found: list[int] = []
    for number, op in enumerate(trace.ops):
        found.append(number if number in owners or not op.reads else found[op.reads[0]])
    return found
