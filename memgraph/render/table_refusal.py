"""An out-of-memory message in words, as text."""

from __future__ import annotations

from memgraph.analyze.refusal_words import Explained
from memgraph.render.words import fill, tabulate
from memgraph.units import format_bytes


def report(found: Explained) -> str:
    """What `memgraph explain` prints."""
    rows = [(format_bytes(size), fill(name, 60)) for name, size in found.numbers]
    table = tabulate(rows, (), tablefmt="plain", disable_numparse=True, colalign=("right", "left")) if rows else ""
    causes = "\n".join(fill(f"cause: {text}", subsequent_indent="  ") for text in found.causes)
    steps = "\n".join(fill(f"next: {text}", subsequent_indent="  ") for text in found.steps)
    return "\n\n".join(filter(None, (table or "The message has no numbers.", causes, steps)))
