"""Memory of objects that nothing names any more, and that refer to each other: it waits for Python's collector."""

from __future__ import annotations

from collections.abc import Hashable

from memgraph.analyze.finding import Finding
from memgraph.analyze.held_in_words import held_by, remedy
from memgraph.analyze.steps import in_words, kind_kept, kinds_kept, rows_of
from memgraph.analyze.uses import makers
from memgraph.trace import Held, Trace
from memgraph.units import format_bytes

_SHOWS = 0.1
"""Share of the peak from which on it is told."""
_NAMED = 3


def cycles(trace: Trace) -> tuple[Finding, ...]:
    """What the collector freed later, and was over at the peak: since it was used last, another like it was made."""
    kept = {buffer: held for held in trace.held if held.kind == "cycle" for buffer in held.buffers}
    if not kept:
        return ()
    over = _over(trace, kept)
    size = sum(trace.buffers[index].size for rows in over.values() for index in rows)
    if size < _SHOWS * trace.peak.requested:
        return ()
    rows = sorted(over.values(), key=lambda row: -sum(trace.buffers[index].size for index in row))
    held = next((kept[index] for row in rows for index in row if kept[index].name), kept[rows[0][0]])
    first = trace.buffers[rows[0][0]].op
    named = ", ".join(f"{len(row):,} x {in_words(trace, row)}" for row in rows[:_NAMED])
    more = f", {len(rows) - _NAMED} more kinds" if len(rows) > _NAMED else ""
    return (Finding(
        "reference-cycles",
        f"{format_bytes(size)} at the peak are of objects that the program has let go of: {named}{more}.",
        trace.ops[first].source if first >= 0 else "",
        held_by(held),
        f"{remedy(held)}; the collector counts objects, not bytes, and comes late",
        size,
    ),)  # fmt: skip


def _over(trace: Trace, kept: dict[int, Held]) -> dict[Hashable, list[int]]:
    """By kind what is alive at the peak and was over; only kinds of which the collector has freed some."""
    stops, end = trace.spans[1], len(trace.events)
    collected = {kind_kept(trace, index) for index in kept if stops[index] < end}
    kinds = {
        kind: rows_of(rows) for kind, rows in kinds_kept(trace.alike_at(trace.peak.event)).items() if kind in collected
    }
    used = _last_used(trace)
    found: dict[Hashable, list[int]] = {}
    for kind, rows in kinds.items():
        newest = max(trace.buffers[index].op for index in rows)
        over = [i for i in rows if i in kept and used.get(trace.buffers[i].op, trace.buffers[i].op) < newest]
        if over:
            found[kind] = over
    return found


def _last_used(trace: Trace) -> dict[int, int]:
    """By each op the last one that read its result, itself or through a view."""
    made = makers(trace)
    used: dict[int, int] = {}
    for number, op in enumerate(trace.ops):
        for read in op.reads:
            used[made[read]] = number
    return used
