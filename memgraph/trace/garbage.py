"""Python's garbage collector, and where it is in the way."""

from __future__ import annotations

import contextlib
import gc
from collections.abc import Iterator


@contextlib.contextmanager
def no_garbage_collection() -> Iterator[None]:
    """No collection while open. It would walk a growing record again and again: a plain step makes no cycles that hold
    tensors, and what is read from a file has none at all; nor has torch, while it is imported. It also makes two
    predictions of the same run the same."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()
