"""A run, a moment of it and a buffer's life, each in a phrase."""

from __future__ import annotations

from memgraph.analyze.bands import op_of, short_op
from memgraph.trace import Trace
from memgraph.units import format_bytes


def headline(trace: Trace) -> str:
    """What ran: `nanovlm-222m, batch 8, seq 512 on rtx3090, predicted with torch 2.13.0+cpu`."""
    settings = trace.settings
    model = [str(settings[name]) for name in ("model", "script") if settings.get(name)] or ["a run"]
    sizes = [f"{name} {settings[name]}" for name in ("batch", "seq") if settings.get(name) is not None]
    return f"{', '.join([*model, *sizes])} on {trace.gpu}, {trace.origin} with torch {trace.torch}"


def moment(trace: Trace, event: int) -> str:
    """Where in a run an event falls: `event 15,989, backward of step 2, at nll_loss_backward in decoder`."""
    phase, op = trace.phase_at(event), trace.op_at(event)
    parts = [f"event {event:,}"]
    if phase.name:
        parts.append(f"{phase.name} of step {phase.step}" if phase.step else phase.name)
    if op is not None:
        parts.append(f"at {short_op(op.name)}" + (f" in {op.module}" if op.module else ""))
    return ", ".join(parts)


def story(trace: Trace, index: int) -> str:
    """A buffer from its allocation to its end."""
    buffer, life, op = trace.buffers[index], trace.life(index), op_of(trace, trace.buffers[index])
    what = f"{format_bytes(buffer.size)} ({buffer.size:,} bytes)"
    if buffer.dtype:
        what += f", {list(buffer.shape)} {buffer.dtype}"
    made = f"allocated: {moment(trace, life.start)}" + (f", {op.source}" if op.source else "")
    if life.stop == len(trace.events):
        return f"{what}; {made}; never freed"
    return f"{what}; {made}; freed: {moment(trace, life.stop)}"
