"""Parameters that an optimizer is given and nothing trains."""

from __future__ import annotations

from memgraph.analyze.finding import Finding
from memgraph.trace import Category, Fact, Trace
from memgraph.units import format_bytes

_SHOWS = 0.5
"""Share of the parameters' bytes from which on it is told: a head that is not used is ordinary."""


def no_gradient(trace: Trace) -> tuple[Finding, ...]:
    """Most parameters of an optimizer have no gradient at any of its steps."""
    if not any(phase.name == "backward" for phase in trace.phases):
        return ()
    whole = [i for i in trace.live_at(trace.peak.event) if trace.buffers[i].category is Category.PARAMETER]
    there, count = sum(trace.buffers[i].size for i in whole), len(whole)
    found = [_told(trace, fact, count) for fact in trace.facts if fact.kind == "no gradient"]
    return tuple(one for one in found if one.bytes >= _SHOWS * there > 0)


def _told(trace: Trace, fact: Fact, count: int) -> Finding:
    size = sum(trace.buffers[index].size for index in fact.buffers)
    return Finding(
        "no-gradient",
        f"{len(fact.buffers):,} of {count:,} parameters, {format_bytes(size)}, get no gradient at any step of "
        f"{fact.text}: they are not trained, and a run that trains them takes more than this.",
        fact.source,
        "a checkpoint with use_reentrant=True makes no gradients where none of its inputs needs one; nor does what "
        "runs under no_grad or is detached",
        "checkpoint(…, use_reentrant=False), or inputs.requires_grad_(); where they are meant to stay as they are, "
        "requires_grad_(False) and leave them out of the optimizer",
        size,
    )
