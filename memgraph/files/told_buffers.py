"""Buffers of a snapshot in columns: what is said of a million of them is said of their numbers, and none is made."""

from __future__ import annotations

from array import array
from collections.abc import Sequence

from memgraph.trace import Buffer, Category, Role, columns
from memgraph.trace.rows import Buffers

_TEXTS = ("", *Category, *Role)
CATEGORIES = {category: place for place, category in enumerate(Category, 1)}
"""Places in the texts of all, as `ROLES`."""
ROLES = {role: place for place, role in enumerate(Role, 1 + len(CATEGORIES))}


def told_buffers(sizes: array[int], ops: array[int], streams: array[int]) -> Buffers:
    """Buffers of which nothing else is known."""
    none = array("b", [0]) * len(sizes)
    roles, categories = (
        array("b", [place]) * len(sizes) for place in (ROLES[Role.OUTPUT], CATEGORIES[Category.UNKNOWN])
    )
    return Buffers(
        sizes, ops, roles, categories, none, none, streams, _TEXTS, {place: role for role, place in ROLES.items()},
        {place: category for category, place in CATEGORIES.items()}, {0: ()}, {0: ""},
    )  # fmt: skip


def for_trace(buffers: Buffers) -> Sequence[Buffer]:
    """As a trace has them."""
    return buffers if len(buffers) >= columns.MANY else tuple(buffers)
