"""What a script may change of the process that it runs in, and whoever runs it needs afterwards."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator
from typing import NoReturn, TextIO

from memgraph.capture.ended import Ended, users_traceback


@contextlib.contextmanager
def surroundings_kept() -> Iterator[None]:
    """The folder and the outputs are afterwards those that they were. An output that was closed is none."""
    folder, out, error = _folder(), sys.stdout, sys.stderr
    try:
        yield
    finally:
        _flush()
        sys.stdout, sys.stderr = _open(out), _open(error)  # type: ignore[assignment]  # as Python has those not there
        if folder is not None:
            with contextlib.suppress(OSError):  # it is gone
                os.chdir(folder)


def leave(how: Ended) -> NoReturn:
    """End a fork that a script made and that came to the script's end: there is nothing after it, as under Python."""
    with contextlib.suppress(Exception):
        said = how.message if how.error is None else users_traceback(how.error)
        sys.stderr.write(f"{said}\n" if said else "")
    _flush()
    os._exit(how.code & 0xFF)


def _folder() -> str | None:
    try:
        return os.getcwd()  # noqa: PTH109  # a text, which os.chdir takes whatever the script made of pathlib
    except OSError:
        return None


def _flush() -> None:
    """What a script left in its outputs, which may be anything by now."""
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(Exception):
            stream.flush()


def _open(stream: TextIO | None) -> TextIO | None:
    return None if stream is None or stream.closed else stream
