"""What was tried on a script, and what came of it."""

from __future__ import annotations

from typing import NamedTuple

from memgraph.trace import Trace
from memgraph.units import format_bytes


class Remedy(NamedTuple):
    """A change, and the script with it."""

    name: str
    code: str
    """What to write."""
    trace: Trace


class ScriptAdvised(NamedTuple):
    """What can be done about a script."""

    now: Trace
    rows: tuple[Remedy, ...]
    """Those that fit first, of them the one that needs least."""


def told(row: Remedy) -> str:
    """A change with what came of it."""
    if row.trace.fits:
        return f"{row.code} (tried: fits, {format_bytes(row.trace.peak.reserved)})"
    return f"{row.code} (tried: gets further, does not fit alone)"


def helps(found: Trace, now: Trace) -> bool:
    """It fits and did not; it needs less; or it got further before it was refused."""
    if found.fits != now.fits:
        return found.fits
    return found.peak.reserved < now.peak.reserved if found.fits else len(found.buffers) > len(now.buffers)
