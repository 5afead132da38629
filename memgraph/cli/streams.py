"""Standard input, output and error where the caller closed some of them."""

from __future__ import annotations

import contextlib
import errno
import io
import os
import sys


class _Closed(io.TextIOBase):
    """Output that was closed before the program began: Python has none then, and click would say nothing, silently."""

    def write(self, _text: str) -> int:
        raise OSError(errno.EBADF, os.strerror(errno.EBADF))


def streams_are_there() -> None:
    """Their numbers are taken, so that no file that is opened later is written to as if it were one of them; and who
    writes to a closed output is told."""
    for number in (0, 1, 2):
        try:
            os.fstat(number)
        except OSError:
            with contextlib.suppress(OSError):
                os.open(os.devnull, os.O_RDWR)  # takes the lowest number that is free
    if sys.stdout is None:
        sys.stdout = _Closed()
