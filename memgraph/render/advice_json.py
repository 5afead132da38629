"""Advice as one JSON object. Sizes in bytes."""

from __future__ import annotations

from typing import Any

from memgraph.analyze.advice import Advice, Advised
from memgraph.render.schema import SCHEMA


def report(found: Advised) -> dict[str, Any]:
    """The object of `memgraph advise --format json`."""
    return {
        "schema": SCHEMA,
        "gpu": found.trace.gpu,
        "available": found.trace.memory,
        "now": _row(found.now),
        "one_sample": _row(found.alone),
        "advice": [_row(row) for row in found.rows],
    }


def _row(row: Advice) -> dict[str, Any]:
    return {
        "changes": [change.name for change in row.changes],
        "titles": [change.title for change in row.changes],
        "code": [change.code for change in row.changes],
        "price": row.price.name.lower(),
        "peak": {"requested": row.requested, "allocated": row.allocated, "reserved": row.reserved},
        "fits": row.fits,
        "work": row.work,
        "options": {**row.options.settings(), "alloc_conf": row.options.alloc_conf},
    }
