"""What the ranks of a world take, as a table."""

from __future__ import annotations

from collections.abc import Sequence

from memgraph.render.words import WIDTH, fill, tabulate
from memgraph.trace import Trace
from memgraph.units import format_bytes

Row = tuple[tuple[int, ...], Trace]
"""Ranks whose runs are the same, and that run."""


def over_ranks(rows: Sequence[Row], world: int) -> str:
    """A row for each kind of rank, and a line on those that were not run."""
    cells = [
        [ranks_in_words(ranks), *(format_bytes(value) for value in trace.peak[:3]), trace.peak.phase,
         "yes" if trace.fits else "no"]
        for ranks, trace in rows
    ]  # fmt: skip
    head = ["ranks", "requested", "allocated", "reserved", "peak in", "fits"]
    table = tabulate(cells, head, stralign="right", disable_numparse=True)
    ran = sorted(rank for ranks, _ in rows for rank in ranks)
    others = world - len(ran)
    if not others:
        return table
    return f"{table}\n\n{others} of {world} ranks were not run; --ranks all runs each."


def one_gpu_in_words(alone: Trace) -> str:
    """What the step of one rank takes on a single GPU."""
    figures = f"{format_bytes(alone.peak.requested)} requested, {format_bytes(alone.peak.reserved)} reserved"
    verdict = "it fits" if alone.fits else "it does not fit"
    return fill(f"On one GPU the step of one rank, with all layers, would take {figures}: {verdict}.", WIDTH)


def ranks_in_words(ranks: Sequence[int]) -> str:
    """`0, 2-5, 7`."""
    runs: list[list[int]] = []
    for rank in sorted(ranks):
        if runs and rank == runs[-1][-1] + 1:
            runs[-1].append(rank)
        else:
            runs.append([rank])
    return ", ".join(str(run[0]) if len(run) == 1 else f"{run[0]}-{run[-1]}" for run in runs)
