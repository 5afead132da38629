"""What a compiler's order costs: layers that one compiled backward computes again long before it needs them."""

from __future__ import annotations

from memgraph.analyze.finding import Finding
from memgraph.analyze.uses import largest
from memgraph.trace import Op, Role, Trace
from memgraph.units import format_bytes

_SHOWS = 0.25
"""Share of the peak from which on it is told: that of a checkpoint that is too wide."""
_MANY = 8
"""Results that are alive together, from which on they are not those of one layer."""
_OF_GRADIENTS = frozenset(("aten.mm", "aten.bmm"))
"""Products, of which gradients are made too."""


def compiled_order(trace: Trace) -> tuple[Finding, ...]:
    """Of a compiled backward what it computes again, where that is alive together. Of generated code only the kernels
    of libraries that it calls are known: those that its forward calls too and that make no gradients."""
    if trace.compilation is None or not trace.compilation.recomputed or trace.peak.phase != "backward":
        return ()
    backward = {number for number, phase in enumerate(trace.phases) if phase.name == "backward"}
    names = {_base(op) for op in trace.ops if op.phase not in backward and op.name.startswith("aten.")} - _OF_GRADIENTS
    kinds = [
        kind for kind in trace.alike_at(trace.peak.event)
        if kind.op and kind.buffer.role is Role.OUTPUT and not kind.buffer.name
        and kind.op.phase in backward and _base(kind.op) in names
    ]  # fmt: skip
    size, count = sum(kind.bytes for kind in kinds), sum(kind.count for kind in kinds)
    if count < _MANY or size < _SHOWS * trace.peak.requested:
        return ()
    return (Finding(
        "compiled-recomputes-early",
        f"{format_bytes(size)} at the peak are {count:,} results of the forward that the compiled backward has "
        "computed again and not used yet.",
        largest(trace, kinds).source,
        "in one graph the order is the compiler's, and it puts the recomputation of many layers before their gradients",
        "torch._dynamo.graph_break() between two passes over the layers, or compile each layer by itself: "
        "block.compile()",
        size,
    ),)  # fmt: skip


def _base(op: Op) -> str:
    """`aten.mm` of any of its overloads."""
    return op.name.rpartition(".")[0]
