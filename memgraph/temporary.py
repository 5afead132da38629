"""Temporary folders that are gone when the process is, however it ends: by itself, by SIGKILL, with its terminal."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

from memgraph.errors import MemgraphError

_WATCHES = """exec 3<&0
{ read -r _ <&3 || rm -rf -- "$0" || { sleep 1; rm -rf -- "$0"; }; } >/dev/null 2>&1 &"""
"""Reads a pipe into which a process writes a line when it has removed its folder. If it ends before, the pipe does too,
and the folder is removed here; ranks that still write into it have a second to end. It is nobody's child: a script that
waits for its children does not wait for it."""


@contextlib.contextmanager
def temporary_folder(prefix: str = "memgraph-", beside: Path | None = None) -> Iterator[Path]:
    """A folder for as long as this is open.

    Args:
        beside: in this folder; default where temporary files are.

    Raises:
        MemgraphError: none can be made where temporary files are.
        OSError: none can be made beside.
    """
    with contextlib.ExitStack() as stack:
        owner, (reads, writes) = os.getpid(), os.pipe()
        stack.callback(_close, reads, writes, owner)
        folder = _made(prefix, beside)
        stack.callback(_remove, folder, owner)
        _watch(folder, reads)
        yield folder


def _made(prefix: str, beside: Path | None) -> Path:
    try:
        return Path(tempfile.mkdtemp(prefix=prefix, dir=beside))
    except OSError as error:
        if beside is not None:
            raise
        reason = error.strerror or error
        raise MemgraphError(
            f"no temporary folder can be made: {reason}; set TMPDIR to one that can be written"
        ) from None


def _watch(folder: Path, reads: int) -> None:
    with contextlib.suppress(OSError):  # no shell: what SIGKILL leaves stays
        shell = subprocess.Popen(
            ["/bin/sh", "-c", _WATCHES, str(folder)], stdin=reads, stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL, cwd="/", start_new_session=True,
        )  # fmt: skip
        shell.wait()  # it leaves the watcher behind at once


def _remove(folder: Path, owner: int) -> None:
    if os.getpid() == owner:  # a fork of the process has it from there
        shutil.rmtree(folder, ignore_errors=True)


def _close(reads: int, writes: int, owner: int) -> None:
    with contextlib.suppress(OSError):
        if os.getpid() == owner:
            os.write(writes, b"\n")
    os.close(writes)
    os.close(reads)
