"""The phases of a run that only its allocations tell: what ran in a backward, in an optimizer, in a module.

Without frames of Python, load, forward and optimizer look alike: then a forward begins with the first buffer that its
backward frees. With them alone, a backward is what has no frames at all: autograd's threads have none.
"""

from __future__ import annotations

from collections.abc import Sequence

from memgraph.files.stacks import NOWHERE, Site
from memgraph.trace import Action, Events, Phase

_ENDS = (int(Action.FREE), int(Action.FREE_COMPLETED))
_ASKS = (int(Action.ALLOC), int(Action.OUT_OF_MEMORY))


def phases(events: Events, sites: Sequence[Site], before: int) -> tuple[Phase, ...]:
    """The stretches of a run, in order.

    Args:
        sites: what the ops of the events are indices of.
        before: events at the front for what was there before.
    """
    labels = _Labels(sites)
    rows: list[tuple[str, int, int]] = [("before", 0, 0)] * bool(before)
    if not labels.known:
        rows.append(("recorded", 1, before))
        return _closed(rows, len(events))
    name, step = "", 0
    actions, _, ops, _, _ = events.columns
    for place in range(before, len(events)):
        if actions[place] not in _ASKS:
            continue
        new = labels.after(name, ops[place], bool(before))
        if new != name:
            step += labels.begins(name, new) or (step == 0 and new != "load")
            rows.append((new, step, _first(actions, place, before)))
            name = new
    if rows and rows[0][0] != "before":
        rows[0] = (*rows[0][:2], 0)
    found = _closed(rows or [("recorded", 1, before)], len(events))
    return found if labels.script else _cut(found, events)


def _first(actions: Sequence[int], place: int, before: int) -> int:
    """Where an allocation begins: at the segments that were taken for it."""
    while place > before and actions[place - 1] == Action.SEGMENT_ALLOC:
        place -= 1
    return place


def _closed(rows: Sequence[tuple[str, int, int]], length: int) -> tuple[Phase, ...]:
    stops = [start for _, _, start in rows[1:]] + [length]
    return tuple(Phase(*row, stop) for row, stop in zip(rows, stops, strict=True))


class _Labels:
    """What each op says of its phase, and what follows from the order."""

    def __init__(self, sites: Sequence[Site]) -> None:
        self._sites = sites
        self.script = any(site.source or site.library for site in sites)
        """Whether there are frames of Python."""
        self._native = any(site.op.startswith("aten.") for site in sites)
        names = {site.phase for site in sites}
        self.known = bool(names - {""})
        self._steps = "optimizer" in names

    def after(self, name: str, op: int, before: bool) -> str:
        """The phase of an op that comes after this one."""
        said = (self._sites[op] if op >= 0 else NOWHERE).phase
        if op < 0 and name in ("forward", "backward", "optimizer"):  # a thread without frames
            return "backward" if not self._native and name == "forward" else name
        if said and (self.script or said != "forward"):
            return said
        if not self.script:
            return "forward"
        rest = {"": "input" if before else "load", "backward": "update" if self._steps else "input",
                "optimizer": "input"}  # fmt: skip
        return rest.get(name, name)

    def begins(self, name: str, new: str) -> bool:
        """Whether a step begins between two phases."""
        last = ("optimizer",) if self._steps else ("backward",)
        return name in last and new in ("input", "forward", "backward")


def _cut(found: Sequence[Phase], events: Events) -> tuple[Phase, ...]:
    """Each forward cut where it begins, where only lives say so: at the first buffer that its backward frees. What is
    before is load, or the optimizer after a backward."""
    rows: list[tuple[str, int]] = []
    for number, phase in enumerate(found):
        after = found[number + 1] if number + 1 < len(found) else None
        before = found[number - 1].name if number else ""
        if phase.name != "forward":
            rows.append((phase.name, phase.start))
            continue
        start = _first_freed(events, phase, after) if after is not None and after.name == "backward" else phase.stop
        rest = {"": "load", "before": "input", "backward": "optimizer", "optimizer": "input"}[before]
        rows += [(rest, phase.start)] * (start > phase.start) + [("forward", start)] * (start < phase.stop)
    return _numbered(rows, found[-1].stop)


def _first_freed(events: Events, phase: Phase, after: Phase) -> int:
    """Where the first buffer of a phase was made that the phase after it frees."""
    actions, buffers = events.columns[:2]
    freed = {buffers[place] for place in range(after.start, after.stop) if actions[place] in _ENDS}
    born = (place for place in range(phase.start, phase.stop)
            if actions[place] == Action.ALLOC and buffers[place] in freed)  # fmt: skip
    return _first(actions, next(born, phase.stop - 1), phase.start)


def _numbered(rows: Sequence[tuple[str, int]], length: int) -> tuple[Phase, ...]:
    """Phases with their steps: one begins after each optimizer's."""
    step, before, told = 0, "", []
    for name, start in rows:
        if name == before:
            continue
        step += name not in ("load", "before") and (step == 0 or before == "optimizer")
        told.append((name, step, start))
        before = name
    return _closed(told, length)
