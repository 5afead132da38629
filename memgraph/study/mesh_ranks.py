"""Several ranks of a mesh, and the step of one of them on a single GPU."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import NamedTuple

from memgraph.errors import UsageError
from memgraph.mesh import Mesh
from memgraph.models.from_config import PREFIX, read_config
from memgraph.options import Options
from memgraph.study.apart import traced_apart
from memgraph.study.ranks import parse_ranks
from memgraph.study.run import Progress
from memgraph.trace import Trace

Row = tuple[tuple[int, ...], Trace]
"""Ranks whose runs are the same, and that run."""


class World(NamedTuple):
    """Ranks of a mesh that were traced."""

    mesh: Mesh
    rows: tuple[Row, ...]
    alone: Trace | None
    """The step of one rank on a single GPU; None if it was not asked for."""

    @property
    def heaviest(self) -> Trace:
        """The trace of those that take the most."""
        return max((trace for _, trace in self.rows), key=lambda trace: trace.peak.reserved)


def trace_world(
    options: Options, which: str | None = None, *, alone: bool = False, progress: Progress | None = None
) -> World:
    """The step on a mesh, each rank in a process of its own.

    Args:
        which: `all`, `distinct` or `0,3`, as of `memgraph run`; None for the options' own rank.
        alone: on a single GPU too.

    Raises:
        UsageError: there is no mesh, or no such rank.
        MemgraphError: a rank fails.
    """
    mesh = options.mesh
    if mesh is None:
        raise UsageError("--ranks is of a mesh: add --mesh dp=8")
    if which is not None and mesh.rank:
        raise UsageError("--rank and --ranks say the same: give one of them")
    chosen = (mesh.rank,) if which is None else parse_ranks(which, mesh.world)
    ranks = distinct(mesh) if chosen is None else chosen
    wanted = [on_rank(options, mesh, rank) for rank in ranks]
    traces = traced_apart([*wanted, on_one_gpu(options)] if alone else wanted, progress)
    return World(mesh, tuple(_together(ranks, traces[: len(ranks)])), traces[-1] if alone else None)


def distinct(mesh: Mesh) -> tuple[int, ...]:
    """Those that may differ: of each stage the first rank, whose shards are the largest, and the last."""
    each = mesh.world // mesh.pp
    return tuple(sorted({rank for first in range(0, mesh.world, each) for rank in (first, first + each - 1)}))


def on_rank(options: Options, mesh: Mesh, rank: int) -> Options:
    """The same options for another rank."""
    return dataclasses.replace(options, mesh=dataclasses.replace(mesh, rank=rank))


def on_one_gpu(options: Options) -> Options:
    """The step of one rank, of all layers and whole samples. From the second micro-batch on memory is the same."""
    caches = options.model.startswith(PREFIX) and hasattr(read_config(options.model), "use_cache")
    fields = {"use_cache": "false", **options.set} if caches else options.set
    return dataclasses.replace(options, mesh=None, accumulate=min(2, options.accumulate), set=fields)


def _together(ranks: Sequence[int], traces: Sequence[Trace]) -> list[Row]:
    groups: dict[object, list[int]] = {}
    for number, trace in enumerate(traces):
        groups.setdefault((trace.events, tuple(buffer.size for buffer in trace.buffers)), []).append(number)
    return [(tuple(ranks[number] for number in group), traces[group[0]]) for group in groups.values()]
