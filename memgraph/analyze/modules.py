"""Modules as a tree, and what each holds at a moment."""

from __future__ import annotations

from typing import NamedTuple

from memgraph.analyze.bands import module_of
from memgraph.trace import Trace


class Module(NamedTuple):
    """A module and those inside it."""

    name: str
    """The last part of its path; empty for the whole model, and for what no module made."""
    path: str
    own: int
    """Bytes of its own, without those of the modules inside."""
    bytes: int
    """Bytes with those of the modules inside."""
    children: tuple[Module, ...]
    """In the order of the model's names, numbers as numbers."""


def tree(trace: Trace, event: int | None = None) -> Module:
    """What is alive after an event, by default at the requested peak, by module. The root's bytes are all of it; what
    belongs to no module is the root's own."""
    moment = trace.peak.event if event is None else event
    own: dict[tuple[str, ...], int] = {(): 0}
    for kind in trace.alike_at(moment):
        path = tuple(filter(None, module_of(trace, kind.buffer).split(".")))
        own[path] = own.get(path, 0) + kind.bytes
    inside: dict[tuple[str, ...], set[tuple[str, ...]]] = {}
    for path in own:
        for depth in range(len(path)):
            inside.setdefault(path[:depth], set()).add(path[: depth + 1])
    return _module((), own, inside)


def _module(
    path: tuple[str, ...], own: dict[tuple[str, ...], int], inside: dict[tuple[str, ...], set[tuple[str, ...]]]
) -> Module:
    children = tuple(_module(child, own, inside) for child in sorted(inside.get(path, ()), key=_order))
    held = own.get(path, 0)
    return Module(
        path[-1] if path else "", ".".join(path), held, held + sum(child.bytes for child in children), children
    )


def _order(path: tuple[str, ...]) -> tuple[int, str]:
    return (int(path[-1]) if path[-1].isdecimal() else -1, path[-1])
