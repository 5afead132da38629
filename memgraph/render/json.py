"""Reports as JSON objects, for scripts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any

from memgraph.analyze.attribution import Consumer, consumers
from memgraph.analyze.compilation import by_layer, saved_bytes
from memgraph.analyze.findings import findings
from memgraph.analyze.laws import Growth, Law
from memgraph.analyze.lines import own_lines
from memgraph.analyze.peak import categories, verdict
from memgraph.analyze.placements import reserved_interval
from memgraph.analyze.remedies import Remedy
from memgraph.analyze.steps import Steps, steps
from memgraph.analyze.streams import bounds, reserved_by_stream, uses_streams
from memgraph.analyze.unasked import unasked
from memgraph.render.schema import SCHEMA
from memgraph.trace import Compilation, Trace
from memgraph.trace.garbage import no_garbage_collection


@no_garbage_collection()  # as of `findings`
def report(
    trace: Trace,
    top: int,
    laws: Mapping[Consumer, Law] = MappingProxyType({}),
    grown: Sequence[Growth] = (),
    tried: Sequence[Remedy] | None = None,
) -> dict[str, Any]:
    """The object of `memgraph analyze --format json`. Sizes in bytes.

    Args:
        laws: of the consumers, where they were asked for.
        grown: the peak by degree, where it was asked for.
        tried: what helps of the changes that a script was run with.
    """
    peak, after, fit, lines = trace.peak, trace.after_load, verdict(trace), own_lines(trace)
    return {
        "schema": SCHEMA,
        "origin": trace.origin,
        "gpu": trace.gpu,
        "torch": trace.torch,
        "settings": dict(trace.settings),
        "peak": {
            "requested": peak.requested, "allocated": peak.allocated, "reserved": peak.reserved, "phase": peak.phase,
            "step": peak.step, "op": peak.op, "module": peak.module,
            **({"active": peak.active} if trace.waits else {}),
        },
        **_streams(trace),
        **({"reserved_interval": list(found)} if (found := reserved_interval(trace)) else {}),
        "after_load": after._asdict(),
        "allocations": len(trace.buffers),
        "fits": fit.fits,
        "available": fit.available,
        "context": fit.context,
        "categories": {str(row.category): row.bytes for row in categories(trace)},
        "top": [
            {
                "name": row.name, "op": row.op, "module": row.module, "source": lines.get(row.source, row.source),
                "library": row.source if row.source in lines else None, "bytes": row.bytes,
                "count": row.count, "shape": list(row.shape), "dtype": row.dtype,
                "law": laws[row].text if row in laws else None,
                "category": str(row.category), "provenance": row.provenance,
            }
            for row in consumers(trace)[:top]
        ],
        **({"compilation": _compilation(trace.compilation)} if trace.compilation else {}),
        **({"growth": [_grown(row) for row in grown]} if grown else {}),
        "findings": [one._asdict() for one in findings(trace, tried)],
        **({"steps": _steps(trace, kept)} if (kept := steps(trace)) else {}),
        "assumptions": list(trace.assumptions),
        "unknown_ops": list(trace.unknown_ops),
        **({"not_asked": list(texts)} if (texts := unasked(trace)) else {}),
    }  # fmt: skip


def _steps(trace: Trace, kept: Steps) -> dict[str, Any]:
    return {
        "count": kept.count, "unit": kept.unit, "grows": kept.rate, "steady_after": kept.steady or None,
        "left": kept.left(trace),
    }  # fmt: skip


def _streams(trace: Trace) -> dict[str, Any]:
    """What several streams did; nothing where there was one."""
    found: dict[str, Any] = {}
    if uses_streams(trace):
        found["reserved_by_stream"] = {str(name): size for name, size in reserved_by_stream(trace).items()}
    if rows := bounds(trace):
        found["bounds"] = {row.kind: {"eager": row.eager, "lazy": row.lazy} for row in rows}
    return found


def _compilation(made: Compilation) -> dict[str, Any]:
    return {
        "graphs": made.graphs, "breaks": list(made.breaks), "saved_bytes": saved_bytes(made),
        "saved": [
            {"op": row.op, "module": row.module, "source": row.source, "shape": list(row.shape), "dtype": row.dtype,
             "bytes": row.size * row.count, "count": row.count}
            for row in by_layer(made)
        ],
        "recomputed": dict(made.recomputed), "pools": made.pools,
    }  # fmt: skip


def _grown(row: Growth) -> dict[str, Any]:
    return {"degree": row.degree, "bytes": row.bytes, "buffers": row.buffers, "law": row.law.text}
