"""How a script ended that ran on a virtual GPU."""

from __future__ import annotations

from typing import NamedTuple


class Ended(NamedTuple):
    """How a script ended."""

    code: int
    """As its process would have exited."""
    message: str = ""
    """What `sys.exit` was given, if that was a text."""
    error: BaseException | None = None
    """An exception that nobody caught."""
