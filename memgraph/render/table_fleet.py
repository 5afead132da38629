"""How many cards a step needs, as text."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Protocol

from memgraph.analyze.binding import Bound
from memgraph.mesh import Mesh
from memgraph.render.words import WIDTH, fill, tabulate
from memgraph.trace import Peak
from memgraph.units import format_bytes


class Fits(Protocol):
    """A mesh on which it fits: `memgraph.study.fleet.Fits`."""

    @property
    def gpus(self) -> int: ...
    @property
    def mesh(self) -> Mesh: ...
    @property
    def checkpoint(self) -> str: ...
    @property
    def samples(self) -> int: ...
    @property
    def peak(self) -> Peak: ...
    @property
    def available(self) -> int: ...
    @property
    def bound(self) -> Bound: ...


class Refused(Protocol):
    """One on which it does not."""

    @property
    def gpus(self) -> int: ...
    @property
    def mesh(self) -> Mesh: ...
    @property
    def why(self) -> str: ...


def report(fits: Sequence[Fits], refused: Sequence[Refused], untried: int) -> str:
    """A row for each mesh that fits; below, why the others do not."""
    blocks = [_table(fits)] if fits else []
    blocks += [fill(text, WIDTH) for text in _others(refused)]
    if untried:
        blocks.append(fill(f"{untried} more meshes were not tried; --meshes {len(fits) + untried} tries all.", WIDTH))
    if fits:
        room = format_bytes(fits[0].available)
        blocks.append(fill(
            f"Each row was traced at its heaviest rank, and fits the {room} that PyTorch may take of a card; what NCCL "
            "takes comes beside it. Samples are those of one step of all cards.", WIDTH,
        ))  # fmt: skip
    return "\n\n".join(blocks)


def _table(fits: Sequence[Fits]) -> str:
    headers = ("gpus", "mesh", "checkpoint", "samples", "reserved", "bound by")
    align = ("right", "left", "left", "right", "right", "left")
    return tabulate(map(_row, fits), headers, tablefmt="simple", colalign=align, disable_numparse=True)


def _row(row: Fits) -> tuple[str, ...]:
    parts = "\n".join(f"{name} {100 * size // (row.peak.requested or 1)} %" for name, size in row.bound.largest)
    return (
        str(row.gpus), _kind(row.mesh), row.checkpoint, str(row.samples), format_bytes(row.peak.reserved),
        parts,
    )  # fmt: skip


def _others(refused: Sequence[Refused]) -> Iterator[str]:
    """A line for each number of cards: how many meshes do not fit, and what the last of them lack."""
    counts = Counter(row.gpus for row in refused)
    for gpus, count in counts.items():
        reasons = Counter(row.why for row in refused if row.gpus == gpus)
        told = "; ".join(f"{why} ({_which(refused, gpus, why)})" for why in reasons)
        cards = "1 card" if gpus == 1 else f"{gpus} cards"
        yield f"{cards}: {count} {'mesh does' if count == 1 else 'meshes do'} not fit: {told}."


def _which(refused: Sequence[Refused], gpus: int, why: str) -> str:
    return ", ".join(_kind(row.mesh) for row in refused if row.gpus == gpus and row.why == why)


def _kind(mesh: Mesh) -> str:
    """`dp=8,tp=2 fsdp`."""
    if mesh.world == 1:
        return "one GPU"
    return f"{mesh.text}{' fsdp' if mesh.fsdp != 'none' else ' ddp' if mesh.shards > 1 else ''}"
