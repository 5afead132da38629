"""Two recordings of one run, through torch's history and through the hook, as one."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from memgraph.analyze.align import Stretch, align
from memgraph.trace import Action, Events, Trace


def joined(history: Trace, hook: Trace) -> Trace:
    """The history, with the ops that the hook knows where both saw the same requests, and with what differs among the
    assumptions."""
    sizes = [[buffer.size for buffer in trace.buffers] for trace in (history, hook)]
    stretches = align(*sizes)
    same = sum(stretch.length for stretch in stretches)
    figures = {"requested": hook.peak.requested, "allocations": len(hook.buffers), "matched": same}
    notes = history.assumptions + hook.assumptions
    if sizes[0] != sizes[1]:
        notes += (
            f"the runs through history and hook differ: {same:,} allocations are in both, of {len(sizes[0]):,} and "
            f"{len(sizes[1]):,}",
        )
    told = dataclasses.replace(history, assumptions=notes, settings={**history.settings, "hook": figures})
    return _with_ops(told, hook, stretches) if len(hook.phases) == len(history.phases) else told


def _with_ops(history: Trace, hook: Trace, stretches: Sequence[Stretch]) -> Trace:
    """An op counts its phase among those of its own recording, so both must have as many."""
    buffers = list(history.buffers)
    for left, right, length in stretches:
        for step in range(length):
            buffers[left + step] = buffers[left + step]._replace(op=hook.buffers[right + step].op)
    events = Events(
        event._replace(op=buffers[event.buffer].op) if event.action is Action.ALLOC else event
        for event in history.events
    )
    return dataclasses.replace(history, buffers=tuple(buffers), events=events, ops=hook.ops)
