"""A run, whatever it is kept in: a trace, a snapshot of PyTorch, or the log of the allocator hook."""

from __future__ import annotations

import dataclasses
import os
import stat
from collections.abc import Callable
from pathlib import Path

from memgraph.errors import TraceError
from memgraph.files import hook_log, snapshot_file
from memgraph.trace import Trace, trace_file
from memgraph.trace.garbage import no_garbage_collection

_READERS: dict[bytes, Callable[[Path], Trace]] = {
    b"\x80": snapshot_file.load_snapshot,
    hook_log.MAGIC: hook_log.load,
}
"""By how the file begins; any other is a trace, or an error of its reader."""


def load(path: str | os.PathLike[str], *, libraries: bool = False) -> Trace:
    """Read a run.

    Args:
        libraries: give the lines of the libraries that call torch alone, without those that call the libraries.

    Raises:
        TraceError: it is not there, no plain file, none of the three, damaged, or not plain data.
    """
    try:
        kind = stat.S_IFMT(Path(path).stat().st_mode)
        if kind not in (stat.S_IFREG, stat.S_IFDIR):  # a pipe can be read once, or never
            raise TraceError(f"{path} is not a plain file: write what it gives into one")
        with open(path, "rb") as file:
            start = file.read(len(hook_log.MAGIC))
    except OSError as error:
        raise TraceError(f"cannot read {path}: {error.strerror or error}") from error
    reader = next((reader for magic, reader in _READERS.items() if start.startswith(magic)), trace_file.load)
    with no_garbage_collection():
        if reader is snapshot_file.load_snapshot:
            return snapshot_file.load_snapshot(Path(path), libraries=libraries)
        trace = reader(Path(path))
        return dataclasses.replace(trace, callers=()) if libraries and trace.callers else trace
