"""What an op takes: the host's time to issue it, and the card's to run it. Whole nanoseconds, so that sums are exact.

The card's time is a roofline from the catalogue: arithmetic or memory traffic, whichever takes longer. The host's is a
price for each ATen call, with more on top where something is recomputed, for a checkpoint is Python: a hook at each
tensor that is put aside or fetched, and under a selective policy a dispatch mode at each call. `plan.clock` plays the
two against each other.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import NamedTuple

from memgraph.analyze.flops import of_op
from memgraph.gpu.specs import GpuSpec
from memgraph.plan.plan_file import parse_plan
from memgraph.trace import Op, Trace

CALL = 12_100
"""Nanoseconds of the host for one ATen call of eager PyTorch, view or kernel alike: Python, dispatch, autograd and
launch. Two measurements beside an H200 agree: 12,177 from one small kernel with autograd to the next, and 113.8 ms for
the 9,388 calls of nanoVLM's unchecked step at batch 8, which the host decides (`benchmarks/checkpoint_measured.py`,
fastest)."""
SAVED = 3.3
"""Calls' worth of host time for each tensor that a region's recomputation brings back: a Python hook where it was saved
in the forward, one where it is made again, one where the backward fetches it. Measured on a processor
alone, with a model that is all calls and no work (`benchmarks/host_costs.py`)."""
POLICY = 1.9
"""Calls' worth of host time on top of each call under a selective policy, in the forward and in the recomputation: the
policy is asked in a Python dispatch mode. Measured likewise."""
KERNEL = 2_000
"""Nanoseconds from one kernel's start to the next on a card, however little they do. An estimate."""
REACHED = 0.38
"""Share of both roofs that the kernels of a whole step reach: the unchecked step of nanoVLM at batch 32 on an H200,
which the card decides, takes 179.0 ms (fastest) where the roofs alone say 70."""

VIEWS = frozenset(
    {
        "alias", "as_strided", "detach", "diagonal", "expand", "lift_fresh", "narrow", "permute", "select", "slice",
        "split", "split_with_sizes", "squeeze", "t", "transpose", "unbind", "unfold", "unsqueeze", "view",
        "view_as_complex", "view_as_real", "_reshape_alias", "_unsafe_view",
    }
)  # fmt: skip
_ROWS_ONLY = frozenset({"embedding", "index", "gather", "index_select"})
"""Ops that read of their first argument only what they return."""


class Spent(NamedTuple):
    """Nanoseconds of one op."""

    host: int
    """To issue it."""
    device: int
    """To run it; nothing for a view."""


Costs = Callable[[Trace], list[Spent]]
"""From a run to what each of its ops takes."""


class HostCosts(NamedTuple):
    """Of one machine's processor. Nanoseconds; see the constants for what each is."""

    call: float
    saved: float
    policy: float

    @classmethod
    def of(cls, call: float = CALL) -> HostCosts:
        """Of a machine of which only the price of a call is known."""
        return cls(call, call * SAVED, call * POLICY)


def costs(gpu: GpuSpec, host: HostCosts) -> Costs:
    """What the ops of a run take on this card, issued by this host."""

    def of_trace(trace: Trace) -> list[Spent]:
        selective = _selective(trace)
        return [Spent(_host(trace, op, host, selective), _device(op, gpu)) for op in trace.ops]

    return of_trace


def base_name(op: Op) -> str:
    """`mm` of `aten.mm.default`."""
    return op.name.removeprefix("aten.").partition(".")[0]


def recomputed(trace: Trace, op: Op) -> bool:
    """Whether an op of a backward does over what a forward did: it differentiates nothing, and a line of the user's ran
    it, which no line does for autograd's own."""
    return op.forward < 0 and bool(op.source) and trace.phases[op.phase].name == "backward"


def under_policy(trace: Trace) -> Callable[[Op], bool]:
    """Whether an op runs under a selective policy."""
    selective = _selective(trace)
    return lambda op: _under(trace, op, selective)


def _host(trace: Trace, op: Op, host: HostCosts, selective: Callable[[str], bool]) -> int:
    saved = base_name(op) == "detach" and recomputed(trace, op)
    return round(host.call + host.saved * saved + host.policy * _under(trace, op, selective))


def _under(trace: Trace, op: Op, selective: Callable[[str], bool]) -> bool:
    """Torch's policies pass `detach` by."""
    again = trace.phases[op.phase].name == "forward" or recomputed(trace, op)
    return again and base_name(op) != "detach" and selective(op.module)


def _selective(trace: Trace) -> Callable[[str], bool]:
    """Whether a module is in a region of the run's plan that keeps some results."""
    text = str(trace.settings.get("checkpoint", ""))
    regions = parse_plan(text).regions if text.startswith("{") else ()
    paths = tuple(path for region in regions if region.keep != "nothing" for path in region.modules)
    return functools.cache(lambda module: any(module == path or module.startswith(path + ".") for path in paths))


def _device(op: Op, gpu: GpuSpec) -> int:
    name = base_name(op)
    if name in VIEWS:
        return 0
    flops = of_op(op)
    arithmetic = flops / _rate(op, gpu) if flops else 0.0
    return max(KERNEL, round(1e9 / REACHED * max(arithmetic, _traffic(name, op) / gpu.bandwidth)))


def _rate(op: Op, gpu: GpuSpec) -> float:
    half = any(spec.dtype in ("bfloat16", "float16") for spec in op.inputs)
    return gpu.half_rate if half else gpu.float_rate


def _traffic(name: str, op: Op) -> int:
    """Bytes that have to come from memory and go there, each once."""
    written = sum(spec.bytes for spec in op.outputs)
    if name in _ROWS_ONLY:
        return 2 * written
    return written + sum(spec.bytes for spec in op.inputs)
