"""Advice as text."""

from __future__ import annotations

from collections.abc import Sequence

from memgraph.analyze.advice import MICRO_BATCHES, WHOLE_STEP, Advice, Advised, Price
from memgraph.render.words import WIDTH, fill, tabulate
from memgraph.units import format_bytes

_KINDS = {
    Price.FREE: "costs nothing", Price.TIME: "costs time", Price.NUMBERS: "changes numbers",
    Price.TRAINING: "changes the training",
}  # fmt: skip


def report(found: Advised, top: int) -> str:
    """What `memgraph advise` prints."""
    blocks = [_situation(found), _table(found, found.rows[:top]), _code(found.rows), _notes(found)]
    return "\n\n".join(filter(None, blocks))


def _situation(found: Advised) -> str:
    now, available = found.now, found.trace.memory
    over = now.reserved - available
    if now.fits:
        text = f"It fits: {format_bytes(now.reserved)} of {format_bytes(available)}."
    else:
        text = f"It does not fit: {format_bytes(now.reserved)}, {format_bytes(over)} more than there is."
    return fill(" ".join(filter(None, (text, _floor(found)))), WIDTH)


def _floor(found: Advised) -> str:
    """Whether the batch is the problem at all."""
    alone = found.alone
    if not alone.fits:
        return (
            f"The batch is not the problem: one sample takes {format_bytes(alone.reserved)}, most of it in the "
            f"{found.floor}."
        )
    if found.trace.peak.phase == "optimizer":
        return (
            "The batch is not the problem: the peak is the optimizer step's, parameters, gradients and moments, "
            "whatever the batch."
        )
    return f"One sample alone takes {format_bytes(alone.reserved)}."


def _table(found: Advised, rows: Sequence[Advice]) -> str:
    if not rows:
        return "None of the changes that are known brings the peak down."
    table = [
        (fill(row.names, 22), format_bytes(row.reserved), "yes" if row.fits else "no",
         f"{100 * (row.work - 1):+.0f} %", fill(_costs(row), 27))
        for row in rows
    ]  # fmt: skip
    return tabulate(
        table, ("change", "reserved", "fits", "work", ""), tablefmt="simple", disable_numparse=True,
        colalign=("left", "right", "left", "right", "left"),
    )  # fmt: skip


def _costs(row: Advice) -> str:
    costs = "; ".join(change.costs for change in row.changes if change.costs)
    return ": ".join(filter(None, (_KINDS[row.price], costs)))


def _code(rows: Sequence[Advice]) -> str:
    """The lines to write, for the first that fits."""
    best = next((row for row in rows if row.fits), None)
    if best is None:
        return ""
    lines = [f"    {change.code}" for change in best.changes]
    return "\n".join([f"{best.names}:", *lines])


def _notes(found: Advised) -> str:
    notes = ["Every figure is a fresh trace of that change; work counts floating-point operations a token."]
    if any(row.options.accumulate > WHOLE_STEP for row in found.rows):
        notes.append(f"Steps of more than {WHOLE_STEP} micro-batches were traced with {MICRO_BATCHES} of them.")
    return fill(" ".join(notes), WIDTH)
