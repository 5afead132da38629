"""What cuDNN keeps of recurrent layers besides their results."""

from __future__ import annotations

from memgraph.analyze.finding import Finding
from memgraph.trace import Role, Trace
from memgraph.units import format_bytes

_SHOWS = 1 / 3
"""Share of the peak from which on it is told."""
_OP = "aten._cudnn_rnn."


def recurrent_reserve(trace: Trace) -> tuple[Finding, ...]:
    """The reserve of recurrent layers, in bytes without a shape: gates and cells of every step, layer and direction
    (`cudnnGetRNNTempSpaceSizes`). `at::_cudnn_rnn` makes it where the module trains, whether or not a gradient is
    wanted (aten/src/ATen/native/cudnn/RNN.cpp)."""
    rows = [
        index for index in trace.live_at(trace.peak.event)
        if (made := trace.buffers[index]).op >= 0 and made.dtype == "uint8" and made.role is Role.OUTPUT
        and trace.ops[made.op].name.startswith(_OP)
    ]  # fmt: skip
    size = sum(trace.buffers[index].size for index in rows)
    if size < max(1, _SHOWS * trace.peak.requested):
        return ()
    largest = trace.ops[trace.buffers[max(rows, key=lambda index: trace.buffers[index].size)].op]
    trains = not trace.fits or any(op.name.startswith("aten._cudnn_rnn_backward.") for op in trace.ops)
    return (Finding(
        "recurrent-reserve",
        f"{format_bytes(size)} at the peak are what cuDNN keeps of recurrent layers for their backward"
        f"{'' if trains else ', which never comes'}, in {len(rows)} pieces.",
        largest.source,
        "gates and cells of every step of the sequence, in each layer and direction, while the module trains"
        + ("" if trains else ": torch.no_grad() alone does not change that"),
        "give the sequence in pieces of time, each computed again in the backward: "
        "out, state = checkpoint(rnn, piece, state, use_reentrant=False); half precision halves it"
        if trains else "rnn.eval(), with which none is made",
        size,
    ),)  # fmt: skip
