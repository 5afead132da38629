"""The waist: `Trace` and its parts, the laws that hold for every trace, and its file."""

from memgraph.trace.data import TraceData
from memgraph.trace.parts import (
    ENDS,
    SCHEMA,
    Action,
    Buffer,
    Category,
    Compilation,
    Event,
    Events,
    Fact,
    Held,
    Life,
    Op,
    Peak,
    Phase,
    Role,
    Saved,
    TensorSpec,
    Usage,
)
from memgraph.trace.trace import Trace

__all__ = ["ENDS", "SCHEMA", "Action", "Buffer", "Category", "Compilation", "Event", "Events", "Fact", "Held", "Life",
           "Op", "Peak", "Phase", "Role", "Saved", "TensorSpec", "Trace", "TraceData", "Usage"]  # fmt: skip
