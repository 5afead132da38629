"""The command: `memgraph`, or `python -m memgraph`."""

from __future__ import annotations

import os
import signal
import sys

TYPE_CHECKING = False  # until `run` heeds ^C nothing is imported that can wait
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

INTERRUPTED = 130
"""As a shell reports a process that Ctrl-C ended."""


def run() -> None:
    """Run the command line. ^C ends it in one line at any moment, also while Python still imports what it needs, and
    when it is done and Python takes itself apart: there an interrupt would be a traceback."""
    _at_interrupt(_end)
    noted = _signals_noted()
    try:
        from memgraph.cli.main import main

        _at_interrupt(signal.default_int_handler)
        main()
    except KeyboardInterrupt:
        sys.exit(INTERRUPTED)
    except Exception:  # an import that was interrupted, and went on (numpy's does): what it left fails later
        if signal.SIGINT not in _read(noted):
            raise
        _end()
    finally:
        _at_interrupt(_end)


def _at_interrupt(handler: Callable[..., Any]) -> None:
    """Unless it is ignored, as under nohup."""
    if signal.getsignal(signal.SIGINT) is not signal.SIG_IGN:
        signal.signal(signal.SIGINT, handler)


def _signals_noted() -> int:
    """A pipe into which Python writes the number of each signal that it handles, whoever handles it."""
    reads, writes = os.pipe()
    for end in (reads, writes):
        os.set_blocking(end, False)
    signal.set_wakeup_fd(writes, warn_on_full_buffer=False)
    return reads


def _read(pipe: int) -> bytes:
    try:
        return os.read(pipe, 4096)
    except BlockingIOError:
        return b""


def _end(*_: Any) -> None:
    try:
        os.write(2, b"memgraph: interrupted\n")
    finally:
        os._exit(INTERRUPTED)


if __name__ == "__main__":
    run()
