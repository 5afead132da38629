"""The phases of a run that only its allocations tell: what ran in a backward, in an optimizer, in a module.

Without frames of Python, load, forward and optimizer look alike: then a forward begins with the first buffer that its
backward frees. With them alone, a backward is what has no frames at all: autograd's threads have none.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence

from memgraph.files.stacks import NOWHERE, Site
from memgraph.trace import Action, Events, Phase

_ENDS = (int(Action.FREE), int(Action.FREE_COMPLETED))
_OF_UPDATES = frozenset(("aten.zeros_like", "aten.zeros", "aten.sqrt", "aten.addcdiv", "aten.clone", "aten.full"))
"""What optimizers of torch make outside of their own ops (torch/optim/adam.py and its neighbours)."""
_ARITHMETIC = frozenset(f"aten.{name}" for name in (
    "add", "mul", "div", "sub", "neg", "pow", "sqrt", "rsqrt", "abs", "clone", "_to_copy", "lerp", "where", "sum",
    "norm", "linalg_vector_norm", "maximum", "clamp", "view", "copy_", "expand", "reshape", "mean", "square",
))  # fmt: skip
"""Ops that optimizers call as well as models."""
_ADDS = 100
"""Parts of what a backward leaves of which another leaves less than one: it adds to gradients that are there."""
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
    return _joined(found if labels.script else _cut(found, events, sites), events)


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


def _cut(found: Sequence[Phase], events: Events, sites: Sequence[Site]) -> tuple[Phase, ...]:
    """Each forward cut where it begins, where only lives say so: at the first buffer that its backward frees. What is
    before is load, or after a backward the optimizer if it makes what one makes, else input."""
    nodes = {plain(site.node.partition("Backward")[0]) for site in sites if site.node}
    differs = [site.op not in _ARITHMETIC and plain(site.op) in nodes for site in sites]
    rows: list[tuple[str, int]] = []
    for number, phase in enumerate(found):
        after = found[number + 1] if number + 1 < len(found) else None
        before = found[number - 1].name if number else ""
        if phase.name != "forward":
            rows.append((phase.name, phase.start))
            continue
        start = _beginning(events, differs, phase, after)
        updates = _updates(events, sites, phase.start, start) or (after is not None and after.name == "optimizer")
        rest = {"": "load", "before": "input", "backward": "optimizer" if updates else "input",
                "optimizer": "optimizer" if after is not None and after.name == "optimizer" else "input"}  # fmt: skip
        rows += [(rest[before], phase.start)] * (start > phase.start) + [("forward", start)] * (start < phase.stop)
    return _numbered(rows, found[-1].stop)


def _beginning(events: Events, differs: Sequence[bool], phase: Phase, after: Phase | None) -> int:
    """Where a forward begins in a phase: where the first buffer was made that the backward after it frees, or, as a
    graph may be kept and nothing freed, the first of an op that a backward differentiates."""
    if after is not None and after.name == "optimizer":
        return phase.stop
    actions, buffers, ops = events.columns[:3]
    freed = {buffers[place] for place in range(after.start, after.stop) if actions[place] in _ENDS} if after else set()
    made = (
        place for place in range(phase.start, phase.stop)
        if actions[place] == Action.ALLOC and (buffers[place] in freed or (ops[place] >= 0 and differs[ops[place]]))
    )  # fmt: skip
    return _first(actions, next(made, phase.stop if after is None else phase.stop - 1), phase.start)


def _updates(events: Events, sites: Sequence[Site], start: int, stop: int) -> bool:
    """Whether an optimizer makes its state here, or what its loop computes of a parameter."""
    actions, _, ops = events.columns[:3]
    return any(
        actions[place] == Action.ALLOC and ops[place] >= 0 and sites[ops[place]].op in _OF_UPDATES
        for place in range(start, stop)
    )


def _numbered(rows: Sequence[tuple[str, int]], length: int) -> tuple[Phase, ...]:
    """Phases with their steps: one begins after each optimizer's, or after each backward where none shows."""
    last = "optimizer" if any(name == "optimizer" for name, _ in rows) else "backward"
    step, before, told = 0, "", []
    for name, start in rows:
        if name == before:
            continue
        step += name not in ("load", "before") and (step == 0 or before == last)
        told.append((name, step, start))
        before = name
    return _closed(told, length)


def _joined(found: Sequence[Phase], events: Events) -> tuple[Phase, ...]:
    """Micro-batches as one step, where no optimizer shows, as SGD's without momentum does not: a backward that adds to
    gradients leaves nothing, and one that finds none leaves them all. Where only one leaves any, they are set to zero
    and not let go of, and each backward is taken to be a step's."""
    backwards = [phase for phase in found if phase.name == "backward"]
    if any(phase.name == "optimizer" for phase in found):
        return tuple(found)
    left = [_left(phase, events) for phase in backwards]
    adds = [_ADDS * one < max(left) for one in left]
    if adds.count(False) < 2 or not any(adds):
        return tuple(found)
    rows, step, ahead = [], backwards[0].step, list(adds[1:])
    for before, phase in zip([None, *found], found, strict=False):
        if before is not None and before.name == "backward":
            step += not (ahead and ahead.pop(0))
        rows.append(phase._replace(step=min(phase.step, step)))
    return tuple(rows)


def _left(phase: Phase, events: Events) -> int:
    """Bytes of what is made in a phase and outlives it."""
    rows = zip(*(column[phase.start : phase.stop] for column in events.columns), strict=True)
    made: dict[int, int] = {}
    for action, _, _, address, size in rows:
        if action == Action.ALLOC:
            made[address] = size
        elif action in _ENDS:
            made.pop(address, None)
    return sum(made.values())


@functools.cache
def plain(name: str) -> str:
    """`mm` of `aten.mm` and `Mm`; `nllloss` of `nll_loss_forward` and `NllLoss`."""
    return name.removeprefix("aten.").removesuffix("_forward").replace("_", "").lower()
