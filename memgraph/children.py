"""Processes that end with the one that started them, however it ends: by itself, by SIGKILL, with its terminal."""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import subprocess
import sys
from collections.abc import Sequence

_PR_SET_PDEATHSIG = 1
"""Of Linux's prctl: the signal that a process is sent when the thread that started it is no more."""
_LIBC = ctypes.CDLL(None, use_errno=True) if sys.platform == "linux" else None


def end_with(parent: int) -> None:
    """This process is killed when its parent ends. Linux alone has that; elsewhere nothing is changed.

    Args:
        parent: the process that started this one. If it is gone already, this one ends here.
    """
    if _LIBC is None:
        return
    _LIBC.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != parent:
        os._exit(1)


def let_go_of_terminal() -> None:
    """Standard input, output and error lead nowhere: whoever reads the parent's output sees its end when it ends."""
    nowhere = os.open(os.devnull, os.O_RDWR)
    for number in (0, 1, 2):
        with contextlib.suppress(OSError):
            os.dup2(nowhere, number)
    if nowhere > 2:
        os.close(nowhere)


def run(
    command: Sequence[str], stdin: bytes | None = None, stdout: int = subprocess.PIPE, seconds: float | None = None
) -> subprocess.CompletedProcess[bytes]:
    """Run a program to its end. It ends with this process, and when this waits no longer (^C).

    Args:
        stdin: what it reads; default whatever this process reads.
        stdout: what becomes of what it writes; default it is kept.
        seconds: after which it is ended; None for never.

    Raises:
        OSError: there is no such program.
        subprocess.TimeoutExpired: it took longer.
    """
    parent = os.getpid()
    return subprocess.run(
        command, input=stdin, stdout=stdout, stderr=subprocess.PIPE, check=False, timeout=seconds,
        preexec_fn=lambda: end_with(parent),
    )  # fmt: skip
