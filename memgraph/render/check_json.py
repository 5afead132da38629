"""A comparison of a prediction with a recording as JSON."""

from __future__ import annotations

from typing import Any

from memgraph.analyze.compare import KINDS, Comparison

SCHEMA = 1


def report(found: Comparison) -> dict[str, Any]:
    """What `memgraph check --format json` prints. Bytes are integers."""
    return {
        "schema": SCHEMA,
        "predicted": found.predicted, "measured": found.measured, "matched": found.matched,
        "peak": {
            kind: {"predicted": figure.predicted, "measured": figure.measured, "ratio": figure.ratio}
            for kind, figure in zip(KINDS, found.peaks, strict=True)
        },
        "phases": [phase._asdict() for phase in found.phases],
        "lifetimes": found.lifetimes,
        "differences": [
            {"kind": row.kind, "op": row.op, "module": row.module, "count": row.number, "bytes": row.bytes,
             "effect": row.effect}
            for row in found.differences
        ],
        "allocator": found.allocator._asdict(),
    }  # fmt: skip
