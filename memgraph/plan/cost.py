"""How long an op takes on a card: a roofline from the catalogue. Whole nanoseconds, so that sums are exact.

A kernel is bound by its arithmetic or by its memory traffic, and by neither below what it costs to start it. Real
kernels reach a part of both roofs; a share of the step, which is what plans are compared by, keeps most of its meaning.
"""

from __future__ import annotations

from collections.abc import Callable

from memgraph.analyze.flops import of_op
from memgraph.gpu.specs import GpuSpec
from memgraph.trace import Op

LAUNCH = 6_000
"""Nanoseconds from one kernel to the next that eager PyTorch does not go below: dispatch, autograd and launch on the
host. An estimate for a current server CPU, not a property of the card."""

_VIEWS = frozenset(
    {
        "alias", "as_strided", "detach", "diagonal", "expand", "lift_fresh", "narrow", "permute", "select", "slice",
        "split", "split_with_sizes", "squeeze", "t", "transpose", "unbind", "unfold", "unsqueeze", "view",
        "view_as_complex", "view_as_real", "_reshape_alias", "_unsafe_view",
    }
)  # fmt: skip
_ROWS_ONLY = frozenset({"embedding", "index", "gather", "index_select"})
"""Ops that read of their first argument only what they return."""


def roofline(gpu: GpuSpec) -> Callable[[Op], int]:
    """What an op takes on this card, in nanoseconds. Views take nothing."""

    def nanoseconds(op: Op) -> int:
        name = op.name.removeprefix("aten.").partition(".")[0]
        if name in _VIEWS:
            return 0
        flops = of_op(op)
        arithmetic = flops / (_rate(op, gpu)) if flops else 0.0
        return max(LAUNCH, round(1e9 * max(arithmetic, _traffic(name, op) / gpu.bandwidth)))

    return nanoseconds


def _rate(op: Op, gpu: GpuSpec) -> float:
    half = any(spec.dtype in ("bfloat16", "float16") for spec in op.inputs)
    return gpu.half_rate if half else gpu.float_rate


def _traffic(name: str, op: Op) -> int:
    """Bytes that have to come from memory and go there, each once."""
    written = sum(spec.bytes for spec in op.outputs)
    if name in _ROWS_ONLY:
        return 2 * written
    return written + sum(spec.bytes for spec in op.inputs)
