"""Files that are there whole or not at all, and that replace nothing unasked."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

from memgraph.errors import MemgraphError, UsageError

StrPath = str | os.PathLike[str]


def write_file(path: StrPath, content: bytes, *, force: bool = False) -> None:
    """Write `content` through a temporary file beside the target, so that it is there whole or not at all.

    Raises:
        UsageError: the file exists and `force` is not given.
        MemgraphError: it cannot be written.
    """
    check_free(path, force=force)
    target = Path(path)
    try:
        with tempfile.TemporaryDirectory(dir=target.parent, prefix=".memgraph-") as folder:
            part = Path(folder) / target.name
            part.write_bytes(content)
            part.replace(target)
    except OSError as error:
        raise MemgraphError(f"cannot write {target}: {error.strerror or error}") from error


def check_free(path: StrPath, *, force: bool = False) -> None:
    """Whether `path` may be written: to ask before the work is done, not after.

    Raises:
        UsageError: the file exists and `force` is not given, it is no plain file, or its folder does not exist.
    """
    target = Path(path)
    if _there(target) and not target.is_file():
        raise UsageError(f"{target} is not a plain file: choose another name")
    if _there(target) and not force:
        raise UsageError(f"{target} exists: choose another name, or overwrite it with --force (in Python force=True)")
    if not target.parent.is_dir():
        raise UsageError(f"{target} cannot be written: there is no folder {target.parent}")


def _there(target: Path) -> bool:
    try:
        return target.exists()
    except OSError as error:  # the name is too long, or a folder on the way may not be searched
        raise UsageError(f"{target} cannot be written: {error.strerror}") from error
