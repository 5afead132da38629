"""A recorded run beside its prediction: what both have, and how the pages in docs/ write it."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from dataclasses import dataclass

KINDS = ("requested", "allocated", "reserved")
"""The peaks, in the order of every tuple of them."""
ERRORS = tuple(f"error, {kind}" for kind in KINDS)


@dataclass(frozen=True, kw_only=True)
class Compared:
    """One run, predicted and measured. Bytes."""

    matched: int
    """Recorded allocations that the prediction has too."""
    allocations: int
    """Recorded ones."""
    predicted: tuple[int, ...]
    measured: tuple[int, ...]

    @property
    def errors(self) -> tuple[str, ...]:
        """Of each peak, as a table has it."""
        return tuple(error(own, real) for own, real in zip(self.predicted, self.measured, strict=True))

    def share(self, digits: int) -> str:
        """Of the recorded allocations, those that are matched."""
        return f"{100 * self.matched / self.allocations:.{digits}f} %"


def matched(predicted: Sequence[int], measured: Sequence[int]) -> int:
    """How many recorded allocations the prediction has too, in order and to the byte."""
    head = 0
    while head < min(len(predicted), len(measured)) and predicted[head] == measured[head]:
        head += 1
    tail = 0
    while tail < min(len(predicted), len(measured)) - head and predicted[-1 - tail] == measured[-1 - tail]:
        tail += 1
    middle = difflib.SequenceMatcher(
        None, predicted[head : len(predicted) - tail], measured[head : len(measured) - tail], autojunk=False
    )
    return head + tail + sum(block.size for block in middle.get_matching_blocks())


def worst(rows: Sequence[Compared]) -> list[float]:
    """By how much a peak is off at most, for each of `KINDS`: 0.01 is one per cent."""
    return [max(abs(row.predicted[kind] / row.measured[kind] - 1) for row in rows) for kind in range(len(KINDS))]


def error(predicted: int, measured: int) -> str:
    """Of a prediction, in per cent."""
    if predicted == measured:
        return "exact"
    return f"{100 * (predicted / measured - 1):+.3f} %"


def mib(size: float) -> str:
    """Bytes in MiB, which the table's text names."""
    return f"{size / 2**20:,.2f}"
