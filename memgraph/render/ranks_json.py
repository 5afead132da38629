"""The ranks of a mesh as a JSON object. Sizes in bytes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

from memgraph.render.table_ranks import Row
from memgraph.trace import Trace


class World(Protocol):
    """Ranks that were traced: `memgraph.study.mesh_ranks.World`."""

    @property
    def rows(self) -> Sequence[Row]: ...

    @property
    def alone(self) -> Trace | None: ...


def world(found: World) -> dict[str, Any]:
    """What `memgraph analyze --format json` has besides, of a run on a mesh."""
    return {
        "ranks": [{"ranks": list(ranks), **_peak(trace)} for ranks, trace in found.rows],
        "one_gpu": None if found.alone is None else _peak(found.alone),
    }


def _peak(trace: Trace) -> dict[str, Any]:
    peak = trace.peak
    return {
        "requested": peak.requested, "allocated": peak.allocated, "reserved": peak.reserved, "phase": peak.phase,
        "fits": trace.fits,
    }  # fmt: skip
