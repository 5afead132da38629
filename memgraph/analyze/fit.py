"""The largest batch that a card can take, and the grid of batches and lengths: searches over what a run would need.

They ask functions, not a GPU: what a batch requests, and whether the allocator gets it into the memory there is. What
is requested can only grow with the batch, so it bounds the search; the allocator is asked near the bound alone.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

from memgraph.trace import Action, Trace, Usage

MOST = 2**20
"""A batch that nobody wants: where this fits, memory is not what limits it."""

Requested = Callable[[int], int]
"""Highest bytes requested, by batch."""
Fits = Callable[[int], bool]
"""Whether a batch fits, by batch."""


class Limit(NamedTuple):
    """The largest batch for a card and a length. Bytes."""

    gpu: str
    seq: int | None
    """Tokens a sample; None where the model has no such thing."""
    batch: int
    """0 if not even one sample fits; `MOST` if memory does not limit it."""
    available: int
    """What the allocator may take, less the headroom."""
    peak: Usage | None
    """Of a fresh trace of that batch; None for 0 or `MOST`, or where none was asked for."""
    beyond: Usage | None
    """Of a fresh trace of one sample more, as if the card were larger."""
    refused: str
    """What was refused one sample beyond: `_log_softmax in the forward`; empty if that was not traced."""
    sure: bool
    """Whether fresh traces bore it out: this batch fits, the next does not."""
    note: str
    """Why it was found by tracing, where no law holds; or empty."""


class Cell(NamedTuple):
    """One batch and length on a card."""

    gpu: str
    seq: int | None
    batch: int
    requested: int
    """The highest bytes requested: exact. What is reserved is larger."""
    share: float
    """Of the available bytes."""
    fits: bool


def largest(requested: Requested, fits: Fits, available: int, least: int = 1) -> int:
    """A batch that fits while the next one does not; `least - 1` if none fits, `MOST` if all do.

    What the allocator reserves need not grow with every sample, so a batch beyond the answer can fit by luck of
    fragmentation. The answer is the first such edge below what is requested at all.
    """
    bound = _highest(lambda batch: requested(batch) <= available, least)
    if bound < least:
        return least - 1
    step, high = 1, bound + 1
    while bound >= least and not fits(bound):
        high, bound, step = bound, bound - step, step * 2
    return _between(fits, max(bound, least - 1), high) if bound < MOST else MOST


def _highest(holds: Fits, least: int) -> int:
    """The largest batch for which something holds that stops holding at some batch; up to `MOST`."""
    if not holds(least):
        return least - 1
    low = least
    while low < MOST and holds(min(2 * low, MOST)):
        low = min(2 * low, MOST)
    return MOST if low == MOST else _between(holds, low, 2 * low)


def _between(holds: Fits, low: int, high: int) -> int:
    """An edge between `low`, where it holds or which is not asked, and `high`, where it does not."""
    while high - low > 1:
        middle = (low + high) // 2
        if holds(middle):
            low = middle
        else:
            high = middle
    return low


def row(
    gpu: str, seq: int | None, batches: Sequence[int], requested: Requested, fits: Fits, available: int
) -> list[Cell]:
    """One length of a grid: what each batch requests, and whether it fits. The edge is searched, not tried at all."""
    sizes = {batch: requested(batch) for batch in batches}
    possible = sorted(batch for batch in sizes if sizes[batch] <= available)
    while possible and not fits(possible[-1]):
        possible.pop()
    good = set(possible)
    return [Cell(gpu, seq, batch, size, size / available, batch in good) for batch, size in sizes.items()]


def refusal(trace: Trace) -> str:
    """What was running when the card was first full: `_log_softmax in the forward of step 1`; empty if it never was."""
    try:
        event = trace.events.columns[0].index(Action.OUT_OF_MEMORY)
    except ValueError:
        return ""
    op, phase = trace.op_at(event), trace.phase_at(event)
    name = op.name.removeprefix("aten.").rpartition(".")[0] if op else "something"
    return f"{name} in the {phase.name} of step {phase.step}"
