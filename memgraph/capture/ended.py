"""How a script ended that ran on a virtual GPU."""

from __future__ import annotations

import importlib.util
import traceback
from pathlib import Path
from typing import NamedTuple

_OURS = str(Path(__file__).parent.parent)


class OwnEnd(BaseException):
    """Ends a script from outside. Not an `Exception`: scripts must not catch it."""


class Ended(NamedTuple):
    """How a script ended."""

    code: int
    """As its process would have exited."""
    message: str = ""
    """What `sys.exit` was given, if that was a text."""
    error: BaseException | None = None
    """An exception that nobody caught."""


def in_words(error: BaseException) -> str:
    """An exception's own text; some have none that can be had."""
    try:
        return str(error)
    except Exception:
        return "<exception str() failed>"  # as a traceback says it


def users_traceback(error: BaseException) -> str:
    """A traceback from the script's first line to the last of the user's: without what ran the script and what stands
    for the card. An out-of-memory error is raised inside of torch, whose frames say nothing of it."""
    told = traceback.TracebackException.from_exception(error)
    skipped = (_OURS, _torch()) if type(error).__name__ == "OutOfMemoryError" else (_OURS,)
    link: traceback.TracebackException | None = told
    while link is not None:
        frames = list(link.stack)
        started = [place for place, frame in enumerate(frames) if frame.filename.startswith(_OURS)][:1]
        frames = [frame for frame in frames[started[0] if started else 0 :] if "runpy" not in frame.filename]
        while frames and frames[-1].filename.startswith(skipped):
            frames.pop()
        link.stack = traceback.StackSummary.from_list([f for f in frames if not f.filename.startswith(_OURS)])
        link = link.__cause__ or (None if link.__suppress_context__ else link.__context__)
    return "".join(told.format()).rstrip()


def _torch() -> str:
    found = importlib.util.find_spec("torch")
    return str(Path(found.origin).parent) if found and found.origin else _OURS
