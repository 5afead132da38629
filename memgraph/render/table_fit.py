"""What fits, as text."""

from __future__ import annotations

from collections.abc import Sequence

from memgraph.analyze.fit import MOST, Limit
from memgraph.render.words import WIDTH, fill, tabulate
from memgraph.units import format_bytes

_ROOM = WIDTH - 60
"""Beside a card, three figures, a length and a batch."""


def report(limits: Sequence[Limit]) -> str:
    """The largest batch for each card and length."""
    headers = ("gpu", "seq", "batch", "reserved", "of", "one more", "refused there")
    align = ("left", "right", "right", "right", "right", "right", "left")
    table = tabulate(map(_row, limits), headers, tablefmt="simple", colalign=align)
    notes = dict.fromkeys((_how_sure(limits), *(row.note for row in limits if row.note)))
    return "\n\n".join((table, *(fill(note, WIDTH) for note in notes)))


def _how_sure(limits: Sequence[Limit]) -> str:
    if all(row.sure for row in limits):
        return "Each batch was traced, and so was one sample more, which does not fit."
    return "From laws, not traced again." if not any(row.sure for row in limits) else "Traced where figures are given."


def _row(row: Limit) -> tuple[str, str, str, str, str, str, str]:
    batch = "any" if row.batch == MOST else str(row.batch) if row.batch else "none"
    return (
        row.gpu, _length(row.seq), batch, format_bytes(row.peak.reserved) if row.peak else "",
        format_bytes(row.available), format_bytes(row.beyond.reserved) if row.beyond else "",
        fill(row.refused.replace(" in the ", ", ").replace(" of step ", " "), _ROOM),
    )  # fmt: skip


def _length(seq: int | None) -> str:
    return "" if seq is None else str(seq)
