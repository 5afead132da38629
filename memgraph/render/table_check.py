"""A comparison of a prediction with a recording as text."""

from __future__ import annotations

import textwrap

from tabulate import tabulate

from memgraph.analyze.cause import signed
from memgraph.analyze.compare import KINDS, Comparison, Difference
from memgraph.units import format_bytes

WIDTH = 80
_WORDS = {
    "missing": "recorded, not predicted: a rule is missing, or the run is another",
    "extra": "predicted, not recorded: a rule is wrong, or the run is another",
    "size": "of another size",
    "lifetime": "there longer or shorter than predicted",
}


def report(found: Comparison, top: int) -> str:
    """What `memgraph check` prints."""
    blocks = [_matched(found), _peaks(found), _phases(found), _differences(found, top), _allocator(found)]
    return "\n\n".join(filter(None, blocks))


def _matched(found: Comparison) -> str:
    share = 100 * found.matched / found.measured if found.measured else 100.0
    text = (
        f"{found.matched:,} of {found.measured:,} recorded allocations predicted to the byte, in order ({share:.2f} %)"
    )
    if found.predicted != found.matched:
        text += f"; {found.predicted - found.matched:,} more were predicted"
    lives = f"; {found.lifetimes:,} lifetimes differ" if found.lifetimes else ""
    return textwrap.fill(text + lives + ".", WIDTH)


def _peaks(found: Comparison) -> str:
    rows = [
        (f"peak {kind}", format_bytes(figure.predicted), format_bytes(figure.measured), off(figure.ratio))
        for kind, figure in zip(KINDS, found.peaks, strict=True)
    ]
    return tabulate(rows, ("", "predicted", "measured", "off by"), tablefmt="simple", disable_numparse=True,
                    colalign=("left", "right", "right", "right"))  # fmt: skip


def off(ratio: float) -> str:
    """A ratio as what it is off by: `exact`, `+0.012 %`."""
    return "exact" if ratio == 1 else f"{100 * (ratio - 1):+.3f} %"


def _phases(found: Comparison) -> str:
    """Only where something is amiss: a table of what is right is noise."""
    wrong = [phase for phase in found.phases if phase.matched != phase.predicted]
    if not wrong:
        return ""
    rows = [
        (f"{phase.name} {phase.step or ''}".strip(), f"{phase.matched:,} of {phase.predicted:,}") for phase in wrong
    ]
    return tabulate(rows, ("phase", "matched"), tablefmt="simple", disable_numparse=True, colalign=("left", "right"))


def _differences(found: Comparison, top: int) -> str:
    if not found.differences:
        return ""
    rows = [_row(row) for row in found.differences[:top]]
    rest = found.differences[top:]
    if rest:
        effect = sum(row.effect for row in rest)
        rows.append((signed(effect), f"{sum(row.number for row in rest):,} x", "", f"{len(rest)} more kinds"))
    table = tabulate(rows, ("at the peak", "", "bytes", "what differs"), tablefmt="simple", disable_numparse=True,
                     colalign=("right", "right", "right", "left"))  # fmt: skip
    kinds = dict.fromkeys(row.kind for row in found.differences)
    return "\n".join([table, "", *(textwrap.fill(f"{kind}: {_WORDS[kind]}", WIDTH) for kind in kinds)])


def _row(row: Difference) -> tuple[str, str, str, str]:
    where = f" in {row.module}" if row.module else ""
    words = textwrap.fill(f"{row.kind}: {row.op}{where}", WIDTH - 36)
    return signed(row.effect), f"{row.number:,} x", signed(row.bytes), words


def _allocator(found: Comparison) -> str:
    """Whether the model of the allocator or the capture is to blame."""
    served = found.allocator
    measured = found.peaks[1].measured, found.peaks[2].measured
    parts = [
        f"{kind} {format_bytes(own)} ({off(own / real) if real else 'exact'})"
        for kind, own, real in zip(KINDS[1:], (served.allocated, served.reserved), measured, strict=True)
    ]
    return textwrap.fill(f"The recorded requests through the model of the allocator: {', '.join(parts)}.", WIDTH)
