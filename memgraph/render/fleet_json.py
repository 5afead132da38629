"""How many cards a step needs, as one JSON object. Sizes in bytes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from memgraph.render.schema import SCHEMA
from memgraph.render.table_fleet import Fits, Refused


def report(fits: Sequence[Fits], refused: Sequence[Refused], untried: int) -> dict[str, Any]:
    """The object of `memgraph fit --gpus … --format json`."""
    return {
        "schema": SCHEMA,
        "fits": [
            {
                "gpus": row.gpus, "mesh": row.mesh.text, "fsdp": row.mesh.fsdp, "rank": row.mesh.rank,
                "checkpoint": row.checkpoint, "samples": row.samples, "requested": row.peak.requested,
                "reserved": row.peak.reserved, "available": row.available, "bound": row.bound._asdict(),
            }
            for row in fits
        ],
        "refused": [
            {"gpus": row.gpus, "mesh": row.mesh.text, "fsdp": row.mesh.fsdp, "why": row.why} for row in refused
        ],
        "untried": untried,
    }  # fmt: skip
