"""A grid of batches and lengths: shades on a terminal, numbers elsewhere."""

from __future__ import annotations

from collections.abc import Sequence

from memgraph.analyze.fit import Cell
from memgraph.render.table import plain
from memgraph.render.table_findings import Paint
from memgraph.units import GIB

_SHADES = "░▒▓█"
"""Up to a quarter, half, three quarters, all of the memory."""
_TOO_MUCH = "·"


def report(cells: Sequence[Cell], paint: Paint = plain, fancy: bool = False) -> str:
    """One map for each card.

    Args:
        fancy: draw shades; otherwise print GiB requested, in brackets what does not fit.
    """
    gpus = dict.fromkeys(cell.gpu for cell in cells)
    maps = [_map(gpu, [cell for cell in cells if cell.gpu == gpu], paint, fancy) for gpu in gpus]
    legend = f"{_SHADES} a quarter, half, three quarters, all of the memory requested; {_TOO_MUCH} does not fit"
    return "\n\n".join([*maps, legend if fancy else "GiB requested at the peak; (…) does not fit"])


def _map(gpu: str, cells: Sequence[Cell], paint: Paint, fancy: bool) -> str:
    """Lengths across, batches down, the largest on top."""
    seqs = sorted({cell.seq or 0 for cell in cells})
    batches = sorted({cell.batch for cell in cells}, reverse=True)
    at = {(cell.batch, cell.seq or 0): cell for cell in cells}
    width = _width(seqs, cells, fancy)
    drawn = [
        f"{batch:>8}" + "".join(_cell(at[batch, seq], width, paint, fancy) for seq in seqs) for batch in batches
    ]  # fmt: skip
    foot = f"{'seq':>8}" + "".join(f"{seq or '':>{width}}" for seq in seqs)
    return "\n".join([f"{gpu}, batch by length", *drawn, foot])


def _width(seqs: Sequence[int], cells: Sequence[Cell], fancy: bool) -> int:
    longest = max(len(str(seq)) for seq in seqs)
    return longest + 1 if fancy else max(longest, *(len(_number(cell)) for cell in cells)) + 2


def _cell(cell: Cell, width: int, paint: Paint, fancy: bool) -> str:
    if not fancy:
        return f"{_number(cell):>{width}}"
    if not cell.fits:
        return f"{_TOO_MUCH:>{width}}"
    shade = min(3, int(cell.share * 4))
    return " " + paint(("green", "green", "yellow", "red")[shade], _SHADES[shade] * (width - 1))


def _number(cell: Cell) -> str:
    text = f"{cell.requested / GIB:.2f}"
    return text if cell.fits else f"({text})"
