"""What cuDNN keeps of recurrent layers besides their results."""

from __future__ import annotations

from memgraph.analyze.finding import Finding
from memgraph.analyze.uses import largest
from memgraph.trace import Role, Trace
from memgraph.trace.alike import named
from memgraph.units import format_bytes

_SHOWS = 1 / 3
"""Share of the peak from which on it is told."""
_OP = "aten._cudnn_rnn."


def recurrent_reserve(trace: Trace) -> tuple[Finding, ...]:
    """The reserve of recurrent layers, in bytes without a shape: gates and cells of every step, layer and direction
    (`cudnnGetRNNTempSpaceSizes`). `at::_cudnn_rnn` makes it where the module trains, whether or not a gradient is
    wanted (aten/src/ATen/native/cudnn/RNN.cpp)."""
    kinds = [
        kind for kind in trace.alike_at(trace.peak.event)
        if kind.op and kind.buffer.dtype == "uint8" and kind.buffer.role is Role.OUTPUT
        and kind.op.name.startswith(_OP)
    ]  # fmt: skip
    size, count = sum(kind.bytes for kind in kinds), sum(kind.count for kind in kinds)
    if size < max(1, _SHOWS * trace.peak.requested):
        return ()
    source = largest(trace, kinds).source
    trains = not trace.fits or named(trace.ops, lambda name: name.startswith("aten._cudnn_rnn_backward."))
    return (Finding(
        "recurrent-reserve",
        f"{format_bytes(size)} at the peak are what cuDNN keeps of recurrent layers for their backward"
        f"{'' if trains else ', which never comes'}, in {count} pieces.",
        source,
        "gates and cells of every step of the sequence, in each layer and direction, while the module trains"
        + ("" if trains else ": torch.no_grad() alone does not change that"),
        "give the sequence in pieces of time, each computed again in the backward: "
        "out, state = checkpoint(rnn, piece, state, use_reentrant=False); half precision halves it"
        if trains else "rnn.eval(), with which none is made",
        size,
    ),)  # fmt: skip
