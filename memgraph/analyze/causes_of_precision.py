"""Half precision that costs more than it saves: autocast's copies of weights, where a batch is small beside them."""

from __future__ import annotations

from memgraph.analyze.finding import Finding
from memgraph.analyze.uses import makers
from memgraph.trace import Buffer, Category, Role, Trace
from memgraph.units import format_bytes

_SHOWS = 0.1
"""Share of the peak from which on copies are told."""
_HALF = ("float16", "bfloat16")


def autocast_copies(trace: Trace) -> tuple[Finding, ...]:
    """At the peak, copies of fp32 weights and of their gradients in half precision, more than all else that is in half
    precision: what that halves. Autocast makes a copy of each weight and keeps it until the forward is over, or the
    backward if that needs it (aten/src/ATen/autocast_mode.cpp, `cached_cast`)."""
    alive = [trace.buffers[index] for index in trace.live_at(trace.peak.event)]
    halves = [one for one in alive if one.dtype in _HALF and not one.name and one.role is Role.OUTPUT]
    if sum(one.size for one in halves) < _SHOWS * trace.peak.requested:
        return ()
    weights = {one.shape for one in alive if one.category is Category.PARAMETER and one.dtype == "float32"}
    if any(one.category is Category.PARAMETER and one.dtype in _HALF for one in alive):
        return ()
    cast = _cast_up(trace)
    copies = [one for one in halves if len(one.shape) > 1 and one.shape in weights and _is_cast(trace, one, cast)]
    size, rest = (sum(one.size for one in rows) for rows in (copies, halves))
    if size < max(rest - size, _SHOWS * trace.peak.requested):
        return ()
    dtype = copies[0].dtype
    return (Finding(
        "autocast-copies",
        f"{format_bytes(size)} at the peak are copies of weights, or of their gradients, in {dtype}; all else that is "
        f"in {dtype}, and would be twice as large, is {format_bytes(rest - size)}: autocast costs more than it saves.",
        trace.ops[copies[0].op].source,
        "autocast keeps the weights in fp32, and makes of each a copy that lives until the backward has used it",
        "a larger batch, beside which the weights are small; or weights that are half themselves, model.bfloat16(), "
        "with an optimizer that allows for it (without autocast: memgraph run --change no-autocast)",
        size,
    ),)  # fmt: skip


def _cast_up(trace: Trace) -> set[int]:
    """Ops whose results are copied from half precision to fp32."""
    made = makers(trace)
    return {
        made[op.reads[0]] for op in trace.ops
        if op.name.startswith("aten._to_copy.") and op.reads and op.inputs and op.inputs[0].dtype in _HALF
        and op.outputs and op.outputs[0].dtype == "float32"
    }  # fmt: skip


def _is_cast(trace: Trace, one: Buffer, cast: set[int]) -> bool:
    """Whether it is the copy of a weight, or a gradient that is copied up."""
    if one.op < 0:
        return False
    op = trace.ops[one.op]
    copied = op.name.startswith("aten._to_copy.") and bool(op.inputs) and op.inputs[0].dtype == "float32"
    return copied if op.forward < 0 else copied or one.op in cast
