"""A diagnosis: what is wrong, where, by how much, why, and what to write instead."""

from __future__ import annotations

from typing import NamedTuple


class Finding(NamedTuple):
    """One cause of memory that need not be used. Shown only where the bytes show it."""

    name: str
    """Of the rule, `growing-graph`."""
    what: str
    """A sentence with its figures."""
    where: str
    """The user's line, `train.py:16`; empty where none is known."""
    why: str
    """What holds it, or makes it so."""
    help: str
    """What to do, as code where that can be pasted."""
    bytes: int
    """What it is about, at the peak or a step."""
