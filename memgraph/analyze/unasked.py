"""What is not asked of a long trace: that would put all of its requests through the allocator's model again, some ten
microseconds each."""

from __future__ import annotations

from collections.abc import Callable

from memgraph.analyze.placements import depends_on_placement
from memgraph.analyze.served import LONGEST, is_long
from memgraph.analyze.streams import leaves_open
from memgraph.trace import Trace

_QUESTIONS: tuple[tuple[Callable[[Trace], bool], str], ...] = (
    (depends_on_placement, "how far reserved bytes depend on where the driver puts segments, up to torch 2.11"),
    (leaves_open, "how far the order of streams leaves the figures open: blocks come back as late as can be"),
    (lambda trace: not trace.fits, "whether segments that grow would have served what was refused"),
)


def unasked(trace: Trace) -> tuple[str, ...]:
    """A sentence each; none of a trace that is not long."""
    if not is_long(trace):
        return ()
    longer = f"(of {LONGEST:,} events at most)"
    return tuple(f"{text} {longer}" for arises, text in _QUESTIONS if arises(trace))
