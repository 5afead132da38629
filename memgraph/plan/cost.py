"""What an op takes: the host's time to issue it, and the card's to run it. Whole nanoseconds, so that sums are exact.

The card's time is a roofline from the catalogue: arithmetic or memory traffic, whichever takes longer. The host's is a
price for each ATen call, with more on top where something is recomputed, for a checkpoint is Python: a hook at each
tensor that is put aside or fetched, and under a selective policy a dispatch mode at each call. `plan.clock` plays the
two against each other.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Callable
from typing import NamedTuple

from memgraph.analyze.flops import of_op
from memgraph.gpu.specs import GpuSpec
from memgraph.plan.plan_file import parse_plan
from memgraph.plan.times import Measured, MeasuredTimes
from memgraph.trace import Op, Trace

CALL = 12_100
"""Nanoseconds of the host for one ATen call of eager PyTorch, view or kernel alike: Python, dispatch, autograd and
launch. Two measurements beside an H200 agree: 12,177 from one small kernel with autograd to the next, and 113.8 ms for
the 9,388 calls of nanoVLM's unchecked step at batch 8, which the host decides (`benchmarks/checkpoint/measured.py`,
fastest)."""
SAVED = 3.3
"""Calls' worth of host time for each tensor that a region's recomputation brings back: a Python hook where it was saved
in the forward, one where it is made again, one where the backward fetches it. Measured on a processor
alone, with a model that is all calls and no work (`benchmarks/checkpoint/host_costs.py`)."""
POLICY = 1.9
"""Calls' worth of host time on top of each call under a selective policy, in the forward and in the recomputation: the
policy is asked in a Python dispatch mode. Measured likewise."""
KERNEL = 2_500
"""Nanoseconds of a kernel besides its work: to start, to fill the card and to run dry."""
REACHED = {"product": 0.66, "attention": 0.27, "pointwise": 0.74, "copy": 0.59, "reduction": 0.42}
"""Share of both roofs that kernels reach beyond that, by what they do. Measured with `KERNEL` on an H200: of nanoVLM's
unchecked step at batch 8 and 32, each kind's roofs by its time less that of its kernels' starts
(`benchmarks/checkpoint/kernel_times.py`)."""
UNALIGNED = 109e12
"""Operations a second of a half-precision product with a matrix whose rows are no multiple of 16 bytes, such as the
logits of an odd vocabulary: no kernel of Hopper's takes it, and cuBLAS runs one of Turing's, at 9 to 14 % of an H200's
roof. Measured likewise; slower cards do not reach it either way."""

VIEWS = frozenset(
    {
        "alias", "as_strided", "detach", "diagonal", "expand", "lift_fresh", "narrow", "permute", "select", "slice",
        "split", "split_with_sizes", "squeeze", "t", "transpose", "unbind", "unfold", "unsqueeze", "view",
        "view_as_complex", "view_as_real", "_reshape_alias", "_unsafe_view",
    }
)  # fmt: skip
_ROWS_ONLY = frozenset({"embedding", "index", "gather", "index_select", "nll_loss_forward"})
"""Ops that read of their first argument only what they return."""
_WRITES_ONLY = frozenset({"nll_loss_backward", "embedding_dense_backward"})
"""Ops that fill what they return with zeros, and some rows of it with what they read."""
_PRODUCTS = frozenset({"mm", "addmm", "bmm", "baddbmm"})
_TRANSPOSED = frozenset({"t", "transpose"})
_COPIES = frozenset({"_to_copy", "copy_", "clone", "cat", "stack", "contiguous", "repeat", "constant_pad_nd"})
_REDUCTIONS = re.compile("sum|mean|norm|softmax|max|min|var|std|amax")
_LISTS = {"lerp": 2, "addcmul": 3, "addcdiv": 3}
"""Lists of tensors that a `_foreach` op takes, where not one; the first is what it writes."""


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


def costs(gpu: GpuSpec, host: HostCosts, times: MeasuredTimes | None = None) -> Costs:
    """What the ops of a run take on this card, issued by this host.

    Args:
        times: measured on the card, for the ops that are among them.
    """

    def of_trace(trace: Trace) -> list[Spent]:
        selective = _selective(trace)
        return [Spent(_host(trace, op, host, selective), _device(trace, op, gpu, times)) for op in trace.ops]

    return of_trace


def measured(trace: Trace, times: MeasuredTimes) -> Measured:
    """How many ops of a run's last step have a measured time."""
    last = trace.phases[trace.ops[-1].phase].step if trace.ops else 0
    step = [op for op in trace.ops if trace.phases[op.phase].step == last and base_name(op) not in VIEWS]
    return Measured(times.gpu, sum(_measured(op, times) is not None for op in step), len(step))


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


def _measured(op: Op, times: MeasuredTimes) -> int | None:
    return times.of(base_name(op), (spec.shape for spec in op.inputs))


def _device(trace: Trace, op: Op, gpu: GpuSpec, times: MeasuredTimes | None) -> int:
    name = base_name(op)
    if name in VIEWS:
        return 0
    if times is not None and (took := _measured(op, times)) is not None:
        return took
    kind = _kind(name, op)
    seconds = _traffic(name, op) / gpu.bandwidth / REACHED[kind]
    if flops := of_op(op):
        seconds = max(seconds, flops / _rate(trace, op, gpu, REACHED[kind]))
    return KERNEL + round(1e9 * seconds)


def _kind(name: str, op: Op) -> str:
    """Of `REACHED`."""
    if "attention" in name:
        return "attention"
    if of_op(op):
        return "product"
    if name in _COPIES:
        return "copy"
    return "reduction" if _REDUCTIONS.search(name) else "pointwise"


def _rate(trace: Trace, op: Op, gpu: GpuSpec, share: float) -> float:
    """Operations a second."""
    if not any(spec.dtype in ("bfloat16", "float16") for spec in op.inputs):
        return share * gpu.float_rate
    return share * gpu.half_rate if _aligned(trace, op) else min(share * gpu.half_rate, UNALIGNED)


def _aligned(trace: Trace, op: Op) -> bool:
    """Whether the rows of a product's matrices are multiples of 16 bytes. Those of a transposed one are its columns."""
    matrices = list(zip(op.inputs, op.reads, strict=False))[-2:] if base_name(op) in _PRODUCTS else []
    rows = [spec.shape[-2 if base_name(trace.ops[made]) in _TRANSPOSED else -1] for spec, made in matrices]
    rows += [spec.shape[-1] for spec in op.outputs if matrices]
    return all(row % 8 == 0 for row in rows)


def _traffic(name: str, op: Op) -> int:
    """Bytes that have to come from memory and go there, each once."""
    read, written = sum(spec.bytes for spec in op.inputs), sum(spec.bytes for spec in op.outputs)
    if name in _WRITES_ONLY:
        return written
    if name in _ROWS_ONLY:
        return 2 * written
    if name.startswith("_foreach") and name.endswith("_"):
        written = read // _LISTS.get(name.removeprefix("_foreach_").rstrip("_"), 1)
    return written + read
