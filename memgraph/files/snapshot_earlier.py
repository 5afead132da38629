"""What was there before a recording began, by what the recording shows of how such things are made: optimizer state by
the optimizer that runs in it, gradients by those of its backwards, cuBLAS's workspaces by the first products."""

from __future__ import annotations

import dataclasses
from array import array
from collections import defaultdict
from collections.abc import Iterator, Sequence, Set

from memgraph.files.stacks import Site
from memgraph.files.told_buffers import CATEGORIES
from memgraph.gpu import cublas
from memgraph.trace import Action, Category, Events, Op, Phase
from memgraph.trace.rows import Buffers

INFERRED = (
    "of {:,} of these op and line are inferred from what the recording shows: of optimizer state from the optimizer "
    "that runs, of gradients from those of its steps, of cuBLAS's workspaces from the first products"
)
_ZEROS = ("adam", "adamw", "nadam", "radam", "rmsprop", "adadelta", "adamax", "rprop")
_STATES = {**dict.fromkeys((f"optim/{name}.py" for name in _ZEROS), "aten.zeros_like"), "optim/sgd.py": "aten.clone"}
"""What an optimizer makes its state with, in the first `step` (torch/optim/*.py)."""
_PRODUCTS = frozenset(f"aten.{name}.default" for name in cublas.MATRIX_OPS)
_EPILOGUES = frozenset(f"aten.{name}.default" for name in cublas.LT_OPS)


def told_earlier(
    ops: tuple[Op, ...], buffers: Buffers, events: Events, sites: Sequence[Site], phases: Sequence[Phase]
) -> tuple[tuple[Op, ...], Buffers, tuple[str, ...]]:
    """The ops and buffers with what can be inferred, and a note that it is; the events name the ops, too."""
    if not phases or phases[0].name != "before" or not ops:
        return ops, buffers, ()
    actions, named, made, _, _ = events.columns
    there = [place for place in range(phases[0].start, phases[0].stop) if actions[place] == Action.ALLOC]
    olds = {named[place]: place for place in there if made[place] < 0}
    told = dict(_inferred(ops, buffers, events, sites, phases, sorted(olds)))
    if not told:
        return ops, buffers, ()
    known: dict[Op, int] = {}
    makers = array("q", buffers.ops)
    for buffer, op in told.items():
        makers[buffer] = made[olds[buffer]] = len(ops) + known.setdefault(op, len(known))
    found = dataclasses.replace(buffers, ops=makers, made={})
    return (*ops, *known), found, (INFERRED.format(len(told)),)


def _inferred(
    ops: Sequence[Op], buffers: Buffers, events: Events, sites: Sequence[Site], phases: Sequence[Phase],
    olds: Sequence[int],
) -> Iterator[tuple[int, Op]]:  # fmt: skip
    of = {category: [one for one in olds if buffers.categories[one] == place] for category, place in CATEGORIES.items()}
    state = _state(sites)
    if state is not None:
        yield from ((one, state) for one in of[Category.OPTIMIZER])
    yield from _gradients(ops, buffers, events, phases, of[Category.GRADIENT])
    yield from _workspaces(ops, buffers, events, phases, of[Category.WORKSPACE])


def _state(sites: Sequence[Site]) -> Op | None:
    """How the one optimizer that runs makes its state, at the line that calls it; None if none is seen, or several."""
    seen = {
        (file, site.source) for site in sites if site.phase == "optimizer"
        if (file := site.library.partition(":")[0]) in _STATES
    }  # fmt: skip
    if len(seen) != 1:
        return None
    ((file, source),) = seen
    return _before(_STATES[file], source) if source else None


def _gradients(
    ops: Sequence[Op], buffers: Buffers, events: Events, phases: Sequence[Phase], olds: Sequence[int]
) -> Iterator[tuple[int, Op]]:
    """Those of the step before, of a size of which the first backward leaves as many: they were made as these."""
    backward = next((phase for phase in phases if phase.name == "backward"), None)
    if backward is None or not olds:
        return
    made: defaultdict[int, list[int]] = defaultdict(list)
    actions, named, _, _, _ = events.columns
    for place in range(backward.start, backward.stop):
        buffer = named[place]
        if actions[place] == Action.ALLOC and buffers.categories[buffer] == CATEGORIES[Category.GRADIENT]:
            made[buffers.sizes[buffer]].append(buffers.ops[buffer])
    for size in {buffers.sizes[one] for one in olds}:
        these = [one for one in olds if buffers.sizes[one] == size]
        if len(these) == len(made[size]) and min(made[size]) >= 0:
            yield from ((one, ops[op]._replace(phase=0, forward=-1)) for one, op in zip(these, made[size], strict=True))


def _workspaces(
    ops: Sequence[Op], buffers: Buffers, events: Events, phases: Sequence[Phase], olds: Sequence[int]
) -> Iterator[tuple[int, Op]]:
    """A handle belongs to a thread: two workspaces of a stream are that of forwards and that of backwards. A smaller
    one is cuBLASLt's, which the products of a forward that add a bias take."""
    works = [one for one in olds if buffers.sizes[one] in cublas.KEPT]
    largest = [one for one in works if buffers.sizes[one] == max(buffers.sizes[each] for each in works)]
    smaller = [one for one in works if one not in largest]
    if len(largest) == 2 and len({buffers.streams[one] for one in largest}) == 1:
        firsts = (_first(ops, events, phases, name, _PRODUCTS) for name in ("forward", "backward"))
        yield from ((one, op) for one, op in zip(largest, firsts, strict=True) if op)
    if len(smaller) == 1 and (op := _first(ops, events, phases, "forward", _EPILOGUES)):
        yield smaller[0], op


def _first(ops: Sequence[Op], events: Events, phases: Sequence[Phase], name: str, wanted: Set[str]) -> Op | None:
    """The first op of some in the first phase of a name, as it was in a step before."""
    phase = next((phase for phase in phases if phase.name == name), None)
    made = events.columns[2][phase.start : phase.stop] if phase else ()
    found = next((ops[one] for one in made if one >= 0 and ops[one].name in wanted), None)
    return found and found._replace(phase=0, forward=-1)


def _before(name: str, source: str) -> Op:
    return Op(f"{name}.default", 0, "", source)
