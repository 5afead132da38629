"""What was chosen otherwise in one of two runs."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

from memgraph.errors import UsageError
from memgraph.gpu.specs import find
from memgraph.mesh import Mesh
from memgraph.options import Options
from memgraph.trace import Trace

_MESH = tuple(Mesh().settings())
_CHOSEN = frozenset({*Options().settings(), *_MESH})
"""Settings that the user chooses; others follow from them."""
_NOT_CHOSEN = ("gpu", "memory", "statistics", "via", "hook", "alloc_conf")
"""Settings that say how a run was recorded, not what was run."""


class Change(NamedTuple):
    """A setting that differs."""

    name: str
    before: str
    after: str


def changes(before: Trace, after: Trace) -> tuple[Change, ...]:
    """The settings that differ: those that the user chose first; one that only follows such a one is left out."""
    found = [Change(name, one, other) for name, one, other in _settings(before, after) if one != other]
    chosen = [change for change in found if change.name in _CHOSEN]
    values = {change[1:] for change in chosen}
    return (*chosen, *(change for change in found if change.name not in _CHOSEN and change[1:] not in values))


def _settings(before: Trace, after: Trace) -> Iterable[tuple[str, str, str]]:
    yield "origin", before.origin, after.origin
    for name in before.settings:
        if name in after.settings and name not in ("set", "statistics", *_MESH) and not _follows(name, before, after):
            yield name, _text(before.settings[name]), _text(after.settings[name])
    for name in _MESH if any("mesh" in trace.settings for trace in (before, after)) else ():
        one, other = (_text(trace.settings.get(name, _ONE.get(name))) for trace in (before, after))
        yield name, one, other
    sets = [trace.settings.get("set") or {} for trace in (before, after)]
    for name in dict.fromkeys((*sets[0], *sets[1])):
        if name not in before.settings or name not in after.settings:
            yield name, _text(sets[0].get(name)), _text(sets[1].get(name))
    yield "gpu", _card(before.gpu) or before.gpu, _card(after.gpu) or after.gpu
    yield "torch", before.torch, after.torch


_ONE = {"mesh": "one GPU", "fsdp": "none", "reshard": "yes"}


def _follows(name: str, before: Trace, after: Trace) -> bool:
    """A mesh says how large its world is."""
    return name == "world" and all("mesh" in trace.settings for trace in (before, after))


def _text(value: Any) -> str:
    return "none" if value is None else str(value)


def other_settings(predicted: Trace, measured: Trace) -> Iterator[tuple[str, str, str]]:
    """Only of what both say; and the card, where both name one of the catalogue."""
    for name, chosen in predicted.settings.items():
        if name in measured.settings and name not in _NOT_CHOSEN and measured.settings[name] != chosen:
            yield name, str(chosen), str(measured.settings[name])
    ours, theirs = _card(predicted.gpu), _card(measured.gpu)
    if ours and theirs and ours != theirs:
        yield "gpu", ours, theirs


def _card(name: str) -> str:
    """The catalogue's name, for a measured trace has the driver's; empty if it is not there."""
    try:
        return find(name).name
    except UsageError:
        return ""
