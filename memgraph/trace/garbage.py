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


def grown_old() -> None:
    """What was made while nothing was collected is of the oldest generation from here on: the next three collections
    would walk all of it. (CPython's `gc_freeze_impl` and `gc_unfreeze_impl`, Modules/gcmodule.c, walk nothing.) Not
    where a program has frozen objects of its own."""
    if not gc.get_freeze_count():
        gc.freeze()
        gc.unfreeze()
