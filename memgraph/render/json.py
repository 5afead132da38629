"""Reports as JSON objects, for scripts."""

from __future__ import annotations

from typing import Any

from memgraph.analyze.attribution import consumers
from memgraph.analyze.peak import categories, verdict
from memgraph.trace import SCHEMA, Trace


def report(trace: Trace, top: int) -> dict[str, Any]:
    """The object of `memgraph analyze --format json`. Sizes in bytes."""
    peak, after, fit = trace.peak, trace.after_load, verdict(trace)
    return {
        "schema": SCHEMA,
        "origin": trace.origin,
        "gpu": trace.gpu,
        "torch": trace.torch,
        "settings": dict(trace.settings),
        "peak": {
            "requested": peak.requested, "allocated": peak.allocated, "reserved": peak.reserved, "phase": peak.phase,
            "step": peak.step, "op": peak.op, "module": peak.module,
        },
        "after_load": after._asdict(),
        "allocations": len(trace.buffers),
        "fits": fit.fits,
        "available": fit.available,
        "context": fit.context,
        "categories": {str(row.category): row.bytes for row in categories(trace)},
        "top": [
            {
                "name": row.name, "op": row.op, "module": row.module, "source": row.source, "bytes": row.bytes,
                "count": row.count, "shape": list(row.shape), "dtype": row.dtype, "law": None,
                "category": str(row.category), "provenance": row.provenance,
            }
            for row in consumers(trace)[:top]
        ],
        "assumptions": list(trace.assumptions),
        "unknown_ops": list(trace.unknown_ops),
    }  # fmt: skip
