"""The error tree. Each error carries its exit code, and says what to do in one line."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable

_LONGEST = 200
"""Signs of a value that a message repeats."""
_VALUES = re.compile(r"'[^']{200,}'|\"[^\"]{200,}\"|\S{200,}")
"""What is in quotes, and words."""


DAMAGED = (LookupError, TypeError, ValueError, AttributeError, OverflowError, RecursionError)
"""What goes wrong in a file that is not what it should be, once it could be opened."""


def shortened(value: str) -> str:
    """Both ends of a long text."""
    return value if len(value) <= _LONGEST else f"{value[:120]}...{value[-40:]}"


class MemgraphError(Exception):
    """Base of every error that memgraph raises on purpose: one line, with the next step."""

    exit_code = 1

    def __str__(self) -> str:
        """The line, without all of a value that was far too long."""
        return _VALUES.sub(lambda value: shortened(value[0]), super().__str__())


class UsageError(MemgraphError):
    """The request itself is wrong: an unknown name, a value out of range."""

    exit_code = 2


class DoesNotFit(MemgraphError):
    """The step needs more memory than the card has."""

    exit_code = 3


class OutsideTolerance(MemgraphError):
    """A check found a larger difference than it was told to accept."""

    exit_code = 4


class ShimError(MemgraphError):
    """The library behind the virtual device could not be built or loaded."""


class TorchChanged(MemgraphError):
    """torch no longer behaves as a patch of ours was written for."""


class TraceError(MemgraphError):
    """A trace file cannot be read, or contradicts itself."""


class InvariantError(TraceError):
    """A conservation law of `Trace` is broken; this is a bug in memgraph."""


def unknown_name(kind: str, name: str, known: Iterable[str]) -> UsageError:
    """The error for a mistyped name, with the closest known ones: `unknown GPU 'h20': did you mean h200?`"""
    options = sorted(known)
    close = _continued(name, options) or _alike(name, options)
    hint = f"did you mean {' or '.join(close)}?" if close else f"known: {', '.join(options)}"
    return UsageError(f"unknown {kind} {name!r}: {hint}")


def _continued(name: str, options: Iterable[str]) -> list[str]:
    """Three of the shortest names that begin so: `a100-40gb` and `a100-80gb` for `a100`, which is no less close to
    `a10`."""
    longer = [option for option in options if option.lower().startswith(name.lower())] if len(name) > 2 else []
    return [option for option in longer if len(option) == min(map(len, longer))][:3]


def _alike(name: str, options: Iterable[str]) -> list[str]:
    folded = {option.lower(): option for option in options}
    return [folded[hit] for hit in difflib.get_close_matches(name.lower(), folded, n=3, cutoff=0.5)]
