"""What would make a script fit, as text."""

from __future__ import annotations

from typing import Any

from memgraph.analyze.findings import findings
from memgraph.analyze.remedies import ScriptAdvised
from memgraph.render.words import fill, tabulate
from memgraph.trace import Trace
from memgraph.units import format_bytes


def report(found: ScriptAdvised) -> str:
    """What `memgraph advise SCRIPT` prints."""
    notes = "Each row is the script itself, run again with that change."
    return "\n\n".join([_situation(found.now), _table(found), notes if found.rows else ""]).rstrip()


def rows(found: ScriptAdvised) -> list[dict[str, Any]]:
    """The same as plain values. Bytes."""
    return [
        {"change": row.name, "code": row.code, "fits": row.trace.fits, "reserved": row.trace.peak.reserved,
         "requested": row.trace.peak.requested}
        for row in found.rows
    ]  # fmt: skip


def _situation(now: Trace) -> str:
    if now.fits:
        text = f"It fits: {format_bytes(now.peak.reserved)} of {format_bytes(now.memory)}."
    else:
        text = f"It does not fit {format_bytes(now.memory)}."
    return "\n".join(fill(line) for line in (text, *(one.what for one in findings(now))))


def _table(found: ScriptAdvised) -> str:
    if not found.rows:
        return "None of the changes that can be made without the script's help makes it need less."
    table = [
        (row.name, format_bytes(row.trace.peak.reserved) if row.trace.fits else "out of memory",
         "yes" if row.trace.fits else "no", fill(row.code, 44))
        for row in found.rows
    ]  # fmt: skip
    align = ("left", "right", "left", "left")
    return tabulate(table, ("change", "reserved", "fits", ""), tablefmt="simple", disable_numparse=True, colalign=align)
