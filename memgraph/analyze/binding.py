"""What a rank's memory is bound by: the peak in the parts that one can do something about."""

from __future__ import annotations

from typing import NamedTuple

from memgraph.trace import Category, Trace

STATES = (Category.PARAMETER, Category.OPTIMIZER, Category.GRADIENT)
BUFFERS = (Category.COMMUNICATION, Category.WORKSPACE)


class Bound(NamedTuple):
    """The requested peak in bytes; the parts add up to it."""

    states: int
    """Parameters, gradients and optimizer state: this rank's shards."""
    working: int
    """Parameters that are whole while they are used."""
    activations: int
    logits: int
    """What has a number for each word of the vocabulary: logits, their copies, log-softmax and gradients."""
    buffers: int
    """Of communication, and of libraries."""
    rest: int
    """Inputs, temporaries and all else."""

    @property
    def largest(self) -> tuple[tuple[str, int], ...]:
        """The two largest, with what they are called."""
        named = zip(NAMES, self, strict=True)
        return tuple(sorted(named, key=lambda part: -part[1])[:2])


NAMES = ("states", "unsharded", "activations", "logits", "buffers", "the rest")


def bound(trace: Trace, words: int | None = None) -> Bound:
    """What is alive at the peak, by its use and its shape, never by a name.

    Args:
        words: of the vocabulary; None where there is none.
    """
    sizes = dict.fromkeys(Bound._fields, 0)
    for kind in trace.alike_at(trace.peak.event):
        sizes[_part(kind.buffer.category, kind.buffer.shape, words)] += kind.bytes
    return Bound(**sizes)


def _part(category: Category, shape: tuple[int, ...], words: int | None) -> str:
    if category in STATES:
        return "states"
    if category is Category.UNSHARDED:
        return "working"
    if category in BUFFERS:
        return "buffers"
    if words is not None and shape and shape[-1] == words:
        return "logits"
    return "activations" if category is Category.ACTIVATION else "rest"
