"""Half precision that costs more than it saves: autocast's copies of weights, where a batch is small beside them."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain

from memgraph.analyze.finding import Finding
from memgraph.analyze.uses import makers
from memgraph.trace import Buffer, Category, Role, Trace
from memgraph.trace.alike import Alike
from memgraph.units import format_bytes

_SHOWS = 0.1
"""Share of the peak from which on copies are told."""
_HALF = ("float16", "bfloat16")


def autocast_copies(trace: Trace) -> tuple[Finding, ...]:
    """At the peak, copies of fp32 weights and of their gradients in half precision, more than all else that is in half
    precision: what that halves. Autocast makes a copy of each weight and keeps it until the forward is over, or the
    backward if that needs it (aten/src/ATen/autocast_mode.cpp, `cached_cast`)."""
    alive = trace.alike_at(trace.peak.event)
    halves = [kind for kind in alive if kind.buffer.dtype in _HALF and _is_result(kind.buffer)]
    rest = sum(kind.bytes for kind in halves)
    weights = {kind.buffer.shape for kind in alive if _is_weight(kind.buffer) and kind.buffer.dtype == "float32"}
    shaped = [kind for kind in halves if len(kind.buffer.shape) > 1 and kind.buffer.shape in weights]
    least = _SHOWS * trace.peak.requested
    if not _most(sum(kind.bytes for kind in shaped), rest, least):  # what follows walks through the whole run
        return ()
    if any(_is_weight(kind.buffer) and kind.buffer.dtype in _HALF for kind in alive):
        return ()
    copies = _copies(trace, shaped)
    size = sum(trace.sizes[index] for index in copies)
    if not _most(size, rest, least):
        return ()
    dtype, first = (trace.buffers[copies[0]].dtype, trace.ops[trace.buffers[copies[0]].op])
    return (Finding(
        "autocast-copies",
        f"{format_bytes(size)} at the peak are copies of weights, or of their gradients, in {dtype}; all else that is "
        f"in {dtype}, and would be twice as large, is {format_bytes(rest - size)}: autocast costs more than it saves.",
        first.source,
        "autocast keeps the weights in fp32, and makes of each a copy that lives until the backward has used it",
        "a larger batch, beside which the weights are small; or weights that are half themselves, model.bfloat16(), "
        "with an optimizer that allows for it (without autocast: memgraph run --change no-autocast)",
        size,
    ),)  # fmt: skip


def _is_result(buffer: Buffer) -> bool:
    return not buffer.name and buffer.role is Role.OUTPUT


def _is_weight(buffer: Buffer) -> bool:
    return buffer.category is Category.PARAMETER


def _most(size: int, of: int, least: float) -> bool:
    return size >= max(of - size, least)


def _copies(trace: Trace, kinds: Sequence[Alike]) -> list[int]:
    """Those buffers that are copies of weights, or gradients that are copied up."""
    cast = _cast_up(trace)
    rows = sorted(chain.from_iterable(kind.rows for kind in kinds))
    return [index for index in rows if _is_cast(trace, trace.buffers[index], cast)]


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
