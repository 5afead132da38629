"""Gradients that are not there, and those that are there twice."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from memgraph.analyze.finding import Finding
from memgraph.analyze.uses import first_readers
from memgraph.trace import Buffer, Category, Fact, Trace
from memgraph.units import format_bytes

_SHOWS = 0.5
"""Share of the parameters' bytes from which on it is told: a head that is not used is ordinary."""
_TWICE = 0.05
"""Share of the peak from which on a second copy of gradients is told."""


def no_gradient(trace: Trace) -> tuple[Finding, ...]:
    """Most parameters of an optimizer have no gradient at any of its steps."""
    if not any(phase.name == "backward" for phase in trace.phases):
        return ()
    whole = [kind for kind in trace.alike_at(trace.peak.event) if kind.buffer.category is Category.PARAMETER]
    there, count = sum(kind.bytes for kind in whole), sum(kind.count for kind in whole)
    facts = [fact for fact in trace.facts if fact.kind == "no gradient"]
    facts = [fact for fact in facts if _size(trace, fact.buffers) >= _SHOWS * there > 0]
    used = first_readers(trace) if facts else {}  # which walks through the whole run
    return tuple(_told(trace, fact, count, used) for fact in facts)


def _size(trace: Trace, buffers: Iterable[int]) -> int:
    return sum(map(trace.sizes.__getitem__, buffers))


def _told(trace: Trace, fact: Fact, count: int, used: Mapping[int, int]) -> Finding:
    """One optimizer's parameters: whether a step uses them at all decides what to do."""
    size = _size(trace, fact.buffers)
    reached = [used[made] for made in (trace.buffers[index].op for index in fact.buffers) if made in used]
    name = trace.buffers[fact.buffers[0]].name
    what = (
        f"{len(fact.buffers):,} of {count:,} parameters, {format_bytes(size)}{f' (`{name}`, …)' if name else ''}, get "
        f"no gradient at any step of {fact.text}: they are not trained"
    )
    leave = "requires_grad_(False) and leave them out of the optimizer"
    if not reached:
        return Finding(
            "no-gradient",
            f"{what}, and no step uses them.",
            fact.source,
            "what no forward calls is on the card all the same",
            f"do not make or move them to the card (`del` the modules that nothing calls), or {leave}",
            size,
        )
    return Finding(
        "no-gradient",
        f"{what}, and a run that trains them takes more than this.",
        trace.ops[min(reached)].source or fact.source,
        "a checkpoint with use_reentrant=True makes no gradients where none of its inputs needs one; nor does what "
        "runs under no_grad or is detached",
        f"checkpoint(…, use_reentrant=False), or inputs.requires_grad_(); where they are meant to stay as they are, "
        f"{leave}",
        size,
    )


def gradients_and_buckets(trace: Trace) -> tuple[Finding, ...]:
    """DistributedDataParallel's buckets, flat tensors that the reducer makes (`initialize_buckets`,
    torch/csrc/distributed/c10d/reducer.cpp), beside gradients of their own that are copied into and out of them."""
    alive = trace.alike_at(trace.peak.event)
    shapes = {kind.buffer.shape for kind in alive if kind.buffer.category is Category.PARAMETER}
    found = [kind for kind in alive if kind.buffer.category is Category.GRADIENT]
    buckets = [kind for kind in found if _is_bucket(trace, kind.buffer) and kind.buffer.shape not in shapes]
    apart = [kind for kind in found if kind.buffer.shape in shapes]
    size = min(sum(kind.bytes for kind in buckets), sum(kind.bytes for kind in apart))
    if not buckets or size < _TWICE * trace.peak.requested:
        return ()
    first = next(one for one in trace.buffers if one.category is Category.GRADIENT and _is_bucket(trace, one))
    return (Finding(
        "gradients-and-buckets",
        f"{format_bytes(size)} at the peak are gradients that DistributedDataParallel has a second time in its "
        f"{sum(kind.count for kind in buckets)} buckets.",
        trace.ops[first.op].source,
        "without views a gradient is a tensor of its own, copied into a bucket to be reduced and back",
        "DistributedDataParallel(…, gradient_as_bucket_view=True)",
        size,
    ),)  # fmt: skip


def _is_bucket(trace: Trace, one: Buffer) -> bool:
    return one.op >= 0 and len(one.shape) == 1 and trace.ops[one.op].name == "aten.empty.memory_format"
