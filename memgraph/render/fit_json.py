"""What fits as one JSON object. Sizes in bytes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from memgraph.analyze.fit import MOST, Cell, Limit
from memgraph.render.schema import SCHEMA


def report(limits: Sequence[Limit], cells: Sequence[Cell]) -> dict[str, Any]:
    """The object of `memgraph fit --format json`. `batch` is null where memory does not limit it."""
    return {
        "schema": SCHEMA,
        "limits": [
            {
                "gpu": row.gpu, "seq": row.seq, "batch": None if row.batch == MOST else row.batch,
                "available": row.available, "peak": row.peak._asdict() if row.peak else None,
                "beyond": row.beyond._asdict() if row.beyond else None, "refused": row.refused, "sure": row.sure,
                "note": row.note,
            }
            for row in limits
        ],
        "grid": [cell._asdict() for cell in cells],
    }  # fmt: skip
