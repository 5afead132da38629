"""A difference as one JSON object. Sizes in bytes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from memgraph.analyze.cause import explain
from memgraph.analyze.diff import Difference, Part
from memgraph.render.schema import SCHEMA
from memgraph.trace import Trace


def report(found: Difference, top: int) -> dict[str, Any]:
    """The object of `memgraph diff --format json`: of every split at most `top` parts, and the sum of the others, so
    that the changes of each add up to `change`."""
    splits = {
        "tensors": found.tensors, "modules": found.modules, "phases": found.phases, "categories": found.categories,
        "laws": found.laws,
    }  # fmt: skip
    return {
        "schema": SCHEMA,
        "change": found.change,
        "explanation": list(explain(found)),
        "settings": [change._asdict() for change in found.settings],
        "before": _side(found.before),
        "after": _side(found.after),
        **{name: _parts(parts, top) for name, parts in splits.items()},
    }


def _side(trace: Trace) -> dict[str, Any]:
    return {
        "origin": trace.origin, "gpu": trace.gpu, "torch": trace.torch, "settings": dict(trace.settings),
        "peak": trace.peak._asdict(), "after_load": trace.after_load._asdict(), "fits": trace.fits,
    }  # fmt: skip


def _parts(parts: Sequence[Part], top: int) -> list[dict[str, Any]]:
    rows = [{**part._asdict(), "change": part.change} for part in parts[:top]]
    rest = parts[top:]
    if rest:
        names = ("before", "after", "count_before", "count_after", "change")
        sums = {name: sum(getattr(part, name) for part in rest) for name in names}
        rows.append({"name": f"{len(rest)} others", "law": "", "formula": "", **sums})
    return rows
