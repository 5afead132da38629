"""Files that are there whole or not at all, and that replace nothing unasked."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

from memgraph.errors import MemgraphError, UsageError
from memgraph.temporary import temporary_folder

StrPath = str | os.PathLike[str]


def write_file(path: StrPath, content: bytes, *, force: bool = False) -> None:
    """Write `content` through a temporary file beside the target, so that it is there whole or not at all.

    Raises:
        UsageError: the file exists and `force` is not given.
        MemgraphError: it cannot be written.
    """
    check_free(path, force=force)
    target = Path(os.path.realpath(path))  # through a link, which stays one
    try:
        if not _written_unseen(target, content):
            _written_beside(target, content)
    except OSError as error:
        raise MemgraphError(f"cannot write {target}: {error.strerror or error}") from error


def _written_unseen(target: Path, content: bytes) -> bool:
    """Through a file that has no name until it is whole: if this process is killed, nothing is left. Linux alone has
    such files, and not on every disk."""
    try:
        number = os.open(target.parent, os.O_TMPFILE | os.O_WRONLY, 0o666)
    except (AttributeError, OSError):
        return False
    part = target.with_name(f".memgraph-{os.getpid()}-{number}")
    with open(number, "wb") as file, contextlib.suppress(FileNotFoundError):
        file.write(content)
        file.flush()
        os.link(f"/proc/self/fd/{number}", part, src_dir_fd=number, follow_symlinks=True)
        part.replace(target)
        return True
    return False


def _written_beside(target: Path, content: bytes) -> None:
    with temporary_folder(".memgraph-", beside=target.parent) as folder:
        part = folder / target.name
        part.write_bytes(content)
        part.replace(target)


def check_free(path: StrPath, *, force: bool = False) -> None:
    """Whether `path` may be written: to ask before the work is done, not after.

    Raises:
        UsageError: the file exists and `force` is not given, it is no plain file, or its folder does not exist.
    """
    target = Path(path)
    if not _there(target) and target.is_symlink() and not force:
        raise UsageError(f"{target} is a link that leads nowhere: choose another name, or write there with --force")
    if _there(target) and not target.is_file():
        raise UsageError(f"{path or repr('')} is not a plain file: choose another name")
    if _there(target) and not force:
        raise UsageError(f"{target} exists: choose another name, or overwrite it with --force (in Python force=True)")
    if not Path(os.path.realpath(path)).parent.is_dir():
        raise UsageError(f"{target} cannot be written: there is no folder {target.parent}")


def _there(target: Path) -> bool:
    try:
        return target.exists()
    except OSError as error:  # the name is too long, or a folder on the way may not be searched
        raise UsageError(f"{target} cannot be written: {error.strerror}") from error
