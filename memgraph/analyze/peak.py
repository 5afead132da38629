"""What the peak is made of."""

from __future__ import annotations

from collections import Counter
from typing import NamedTuple

from memgraph.errors import UsageError
from memgraph.gpu.specs import find
from memgraph.trace import ENDS, Category, Trace


class Share(NamedTuple):
    """One category's part of the requested peak."""

    category: Category
    bytes: int
    count: int  # type: ignore[assignment]  # a tuple has a method of this name, which nobody calls on a row
    """Buffers."""
    share: float
    """Of the peak, 0 to 1."""


class Verdict(NamedTuple):
    """Whether the run fits its card. Bytes."""

    fits: bool
    """Nothing was refused, and what was taken is not more than there is, as far as that is known."""
    reserved: int
    """What the allocator took at most, or would have taken."""
    available: int
    """What the allocator may take; 0 where no card is known."""
    margin: int
    """Available less reserved; negative if it does not fit."""
    context: int
    """The CUDA context on top, 0 where the card is not in the catalogue."""
    memory: int
    """The card's memory, 0 likewise."""


def has_no_history(trace: Trace) -> bool:
    """Whether it is a snapshot that says what was held when it was written, and nothing of what happened before."""
    quiet = all(phase.name in ("before", "recorded") for phase in trace.phases)
    return "snapshot" in trace.settings and quiet and not any(trace.counts[end] for end in ENDS)


def categories(trace: Trace) -> tuple[Share, ...]:
    """The requested peak by category, the largest first. The parts sum to `trace.peak.requested`."""
    sizes: Counter[Category] = Counter()
    counts: Counter[Category] = Counter()
    for kind in trace.alike_at(trace.peak.event):
        sizes[kind.buffer.category] += kind.bytes
        counts[kind.buffer.category] += kind.count
    total = trace.peak.requested or 1
    return tuple(Share(name, size, counts[name], size / total) for name, size in sizes.most_common())


def verdict(trace: Trace) -> Verdict:
    """Whether it fits, and by how much."""
    try:
        card = find(trace.gpu)
        context, memory = card.context, card.memory
    except UsageError:
        context = memory = 0
    reserved = trace.peak.reserved
    margin = trace.memory - reserved
    return Verdict(trace.fits and (margin >= 0 or not trace.memory), reserved, trace.memory, margin, context, memory)
