"""A difference as text: three lines, the figures, and its splits."""

from __future__ import annotations

from collections.abc import Sequence

from memgraph.analyze.cause import explain, signed
from memgraph.analyze.diff import Difference, Part
from memgraph.render.words import WIDTH, fill, tabulate
from memgraph.units import format_bytes

_ROOM = WIDTH - 44
"""Beside three sizes and a count."""


def report(found: Difference, top: int) -> str:
    """What `memgraph diff` prints. The first three lines are the answer, however long; the rest is its evidence."""
    blocks = ["\n".join(explain(found)), _figures(found)]
    splits = (("largest changes", found.tensors), ("by module", found.modules), ("by phase", found.phases),
              ("by kind", found.categories), ("by law", found.laws))  # fmt: skip
    blocks += [_split(title, parts, top) for title, parts in splits if len(parts) > 1 or title == "largest changes"]
    return "\n\n".join(blocks)


def _figures(found: Difference) -> str:
    one, other = found.peaks
    pairs = [(name, getattr(one, name), getattr(other, name)) for name in ("requested", "allocated", "reserved")]
    load = found.before.after_load.requested, found.after.after_load.requested
    rows = [(f"peak {name}", *_row(a, b)) for name, a, b in pairs] + [("after load", *_row(*load))]
    return tabulate(rows, ("", "before", "after", "change"), tablefmt="simple", colalign=("left", *["right"] * 3))


def _row(before: int, after: int) -> tuple[str, str, str]:
    return format_bytes(before), format_bytes(after), signed(after - before)


def _split(title: str, parts: Sequence[Part], top: int) -> str:
    """The largest changes, and what is left of the sum, so that the column adds up."""
    changed = [part for part in parts if part.change]
    rows = [(*_row(part.before, part.after), _count(part), _what(part)) for part in changed[:top]]
    if len(changed) > top:
        rest = changed[top:]
        sums = sum(part.before for part in rest), sum(part.after for part in rest)
        rows.append((*_row(*sums), "", f"{len(rest)} smaller changes"))
    same = [part for part in parts if not part.change]
    if same:
        size = sum(part.after for part in same)
        rows.append((*_row(size, size), "", fill(f"the same in both: {_names(same)}", _ROOM)))
    align = ("right", "right", "right", "right", "left")
    return tabulate(rows, ("before", "after", "change", "", title), tablefmt="simple", colalign=align)


def _count(part: Part) -> str:
    one, other = part.count_before, part.count_after
    return f"{other:,} x" if one == other else f"{one:,} -> {other:,} x"


def _what(part: Part) -> str:
    law = ": ".join(filter(None, (part.law, part.formula)))
    return fill(f"{part.name} ({law})" if law and law != part.name else part.name, _ROOM)


def _names(parts: Sequence[Part]) -> str:
    return ", ".join(part.name for part in parts) if len(parts) <= 3 else f"{len(parts)} more"
