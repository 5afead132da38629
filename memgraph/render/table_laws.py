"""How the peak grows, as text."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from memgraph.analyze.attribution import Consumer
from memgraph.analyze.laws import Growth, Law
from memgraph.render.words import WIDTH, fill, tabulate
from memgraph.units import format_bytes


def by_degree(rows: Sequence[Growth]) -> str:
    """The peak by how fast it grows, each with the law of the sum: `memgraph analyze --by law`."""
    total = sum(row.bytes for row in rows) or 1
    table = [
        (row.degree, format_bytes(row.bytes), f"{100 * row.bytes / total:.1f} %", f"{row.buffers:,}",
         fill(f"{row.law.text}; most: {row.example.provenance}", WIDTH - 42))
        for row in rows
    ]  # fmt: skip
    lines = tabulate(table, ("grows as", "bytes", "share", "buffers", "law"), tablefmt="simple", disable_numparse=True,
                     colalign=("left", "right", "right", "right", "left"))  # fmt: skip
    return f"{lines}\n\n{_squares(rows)}".rstrip()


def laws(found: Mapping[Consumer, Law], top: int) -> str:
    """The largest consumers with their laws."""
    table = [
        (format_bytes(row.bytes), fill(law.text, 26), fill(row.provenance, WIDTH - 42))
        for row, law in list(found.items())[:top]
    ]
    return tabulate(table, ("largest", "law", "what"), tablefmt="simple", colalign=("right", "left", "left"))


def _squares(rows: Sequence[Growth]) -> str:
    """People look for what grows with the square of the length: it is said when there is nothing."""
    sized = any("S" in row.degree for row in rows)
    return "Nothing grows as S²." if sized and not any("S²" in row.degree for row in rows) else ""
