"""A comparison of a prediction with a recording as JSON."""

from __future__ import annotations

from typing import Any

from memgraph.analyze.compare import KINDS, Comparison
from memgraph.analyze.streams import Bounds
from memgraph.render.schema import SCHEMA


def report(found: Comparison) -> dict[str, Any]:
    """What `memgraph check --format json` prints. Bytes are integers."""
    return {
        "schema": SCHEMA,
        "predicted": found.predicted, "measured": found.measured, "matched": found.matched, "steps": found.steps,
        "peak": {
            kind: {
                "predicted": figure.predicted, "measured": figure.measured, "ratio": found.ratios[kind],
                **_eager(found.open(kind)),
            }
            for kind, figure in zip(KINDS, found.peaks, strict=False)
        },
        "phases": [phase._asdict() for phase in found.phases],
        "lifetimes": found.lifetimes,
        "differences": [
            {"kind": row.kind, "op": row.op, "module": row.module, "rule": row.rule, "count": row.number,
             "bytes": row.bytes, "effect": row.effect}
            for row in found.differences
        ],
        "allocator": {**found.allocator._asdict(), "placed": found.placed._asdict() if found.placed else None},
        "settings": [dict(zip(("name", "predicted", "measured"), row, strict=True)) for row in found.settings],
        "out_of_memory": {
            name: refusal._asdict() if refusal else None
            for name, refusal in zip(("predicted", "measured"), found.refused, strict=True)
        },
    }  # fmt: skip


def _eager(ends: Bounds | None) -> dict[str, int]:
    """The other end of what is predicted, where the order of streams leaves it open."""
    return {} if ends is None else {"eager": ends.eager}
