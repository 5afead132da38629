"""memgraph: see your GPU memory before you have the GPU. Importing it does not import torch."""

from __future__ import annotations

TYPE_CHECKING = False  # as typing's, which would be imported before ^C is heeded
if TYPE_CHECKING:
    from typing import Any

__version__ = "0.1.0"

_HOMES = {
    "Mesh": "memgraph.mesh",
    "Options": "memgraph.options",
    "Trace": "memgraph.trace",
    "apply_checkpoints": "memgraph.api",
    "load": "memgraph.files.any_file",
    "plan_checkpoints": "memgraph.api",
    "predict": "memgraph.api",
    "record": "memgraph.api",
    "save": "memgraph.trace.writing",
    "virtual_gpu": "memgraph.api",
}

if TYPE_CHECKING:
    from memgraph.api import apply_checkpoints, plan_checkpoints, predict, record, virtual_gpu
    from memgraph.files.any_file import load
    from memgraph.mesh import Mesh
    from memgraph.options import Options
    from memgraph.trace import Trace
    from memgraph.trace.writing import save


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'memgraph' has no attribute {name!r}")
    import importlib

    return getattr(importlib.import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted([*_HOMES, "__version__"])


__all__ = ["Mesh", "Options", "Trace", "__version__", "apply_checkpoints", "load", "plan_checkpoints", "predict",
           "record", "save", "virtual_gpu"]  # fmt: skip
