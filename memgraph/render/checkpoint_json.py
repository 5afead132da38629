"""A checkpoint plan as one JSON object. Sizes in bytes, times as shares of the step."""

from __future__ import annotations

import json
from typing import Any

from memgraph.plan.answer import Answer, Point
from memgraph.render.schema import SCHEMA


def report(found: Answer) -> dict[str, Any]:
    """The object of `memgraph checkpoint --format json`."""
    return {
        "schema": SCHEMA,
        "gpu": found.options.gpu,
        "budget": found.budget,
        "fits": found.best is not None,
        "base": _point(found.base),
        "best": _point(found.best),
        "least": _point(found.least),
        "curve": [_point(point) for point in found.curve],
        "candidates": list(found.problem.candidates),
        "options": len(found.problem.options),
        "refined": found.refined,
        "host_cost_us": found.host_call / 1000,
        "measured": _measured(found),
        "traces": found.traces,
        "notes": list(found.notes),
    }


def _measured(found: Answer) -> dict[str, Any] | None:
    return None if found.measured is None else found.measured._asdict()


def _point(point: Point | None) -> dict[str, Any] | None:
    if point is None:
        return None
    return {
        "plan": json.loads(point.plan.text),
        "predicted_requested": point.predicted,
        "peak": {"requested": point.peak.requested, "allocated": point.peak.allocated,
                 "reserved": point.peak.reserved},
        "fits": point.fits,
        "recompute": point.share,
        "binding": point.binding,
    }  # fmt: skip
