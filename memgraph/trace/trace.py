"""`Trace`: what one run did to GPU memory. The waist of the pipeline.

A capture fills a trace once, predicted or measured alike; everything after it is a function of it. Plain frozen data,
no torch. All sizes are bytes. The clock of a trace is the index of its events.
"""

from __future__ import annotations

import importlib
import os
from dataclasses import dataclass

from memgraph.trace.conservation import check
from memgraph.trace.data import TraceData
from memgraph.trace.writing import save


@dataclass(frozen=True)
class Trace(TraceData):
    """One run's memory. See the module's text."""

    def save(self, path: str | os.PathLike[str], *, force: bool = False) -> None:
        """Write it to a file, for `memgraph.load` and every command. Refuses to overwrite without `force`."""
        save(self, path, force=force)

    def _repr_html_(self) -> str:
        """As a notebook shows it. The one place where the waist knows of something above it, by name and when it is
        asked."""
        html: str = importlib.import_module("memgraph.render.notebook").notebook(self)
        return html

    def self_check(self) -> None:
        """Check the conservation laws.

        Raises:
            InvariantError: naming the law that is broken and where.
        """
        check(self)
