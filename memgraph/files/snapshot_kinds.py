"""What the buffers of a snapshot are for: by when they were made, how long they lived, and which sizes come again.

Gradients are what a backward leaves behind. Each has the size of its parameter, so of what was there before a recording
began as many buffers of a size are parameters as there are gradients of it, and those beyond are the optimizer's.
"""

from __future__ import annotations

import dataclasses
from array import array
from bisect import bisect_right
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple, TypeAlias

from memgraph.files.stacks import NOWHERE, Site
from memgraph.files.told_buffers import CATEGORIES, ROLES
from memgraph.gpu import cublas
from memgraph.trace import ENDS, Action, Category, Events, Phase, Role, columns
from memgraph.trace.refused import until_refused
from memgraph.trace.rows import Buffers

_PRODUCTS = frozenset(f"aten.{name}" for name in (
    "mm", "addmm", "bmm", "baddbmm", "linear", "matmul", "mv", "addmv", "dot", "_addmm_activation", "convolution",
    "_scaled_dot_product_attention_math",
))  # fmt: skip
"""Ops that call cuBLAS, which has a workspace from the first of them on."""
_CACHES = "transformers/cache_utils.py:"
"""Where the cache classes of transformers make what they keep."""
_BEFORE = ("load", "before", "recorded")
_STATE = 2
"""Tensors of a parameter's size that an optimizer keeps of it at most, Adam's moments; three with `amsgrad`."""


Told: TypeAlias = tuple[Category, Role]


class Kind(NamedTuple):
    """What buffers have in common of which the same can be said."""

    site: int
    """Where they were made, -1 if that is not known."""
    size: int
    phase: int
    past: bool
    """They outlive their phase."""
    stays: bool
    """They are there at the end."""
    inside: bool
    """The op that made them freed them itself."""


class _Kinds(NamedTuple):
    """The buffers of a run by kinds, of which there are some thousand where there are a million of them."""

    kinds: Sequence[Kind]
    of: Sequence[int]
    """The number of each buffer's kind."""
    counts: Mapping[int, int]
    """How many are of each."""
    phases: Sequence[Phase]
    told: Sequence[Told]
    """What is said of each kind."""

    def those(self, *categories: Category) -> list[tuple[Kind, Phase, int]]:
        """Kinds of which this is said, with their phases, and how many buffers are of each."""
        return [
            (kind, self.phases[kind.phase], self.counts[number])
            for number, (kind, (category, _)) in enumerate(zip(self.kinds, self.told, strict=True))
            if category in categories
        ]

    def rows(self, wanted: Sequence[bool]) -> list[int]:
        """The buffers of kinds that are wanted, in order."""
        return [index for index, number in enumerate(self.of) if wanted[number]] if any(wanted) else []


def with_categories(
    buffers: Buffers, events: Events, sites: Sequence[Site], phases: Sequence[Phase], ended: Sequence[int] = ()
) -> Buffers:
    """The buffers with a role and a category.

    Args:
        ended: of each buffer the site that freed it, as `ReadHistory` has them.
    """
    end = len(events)
    cut = [until_refused(phase, events) for phase in phases]
    spans = _spans(events, len(buffers))
    kinds, of = _kinds(buffers, spans, ended or array("q", [-1]) * len(buffers), sites, cut, end)
    told = [_one(kind, sites[kind.site] if kind.site >= 0 else NOWHERE, cut[kind.phase], end) for kind in kinds]
    by = _Kinds(kinds, of, Counter(of), cut, _unfinished(kinds, told, cut, end))
    single: dict[int, Told] = {index: (category, Role.OUTPUT) for index, category in _by_sizes(by, spans)}
    left = list(_left_gradients(by, single))
    single |= dict.fromkeys(left, (Category.GRADIENT, Role.OUTPUT))
    graded = {kind.phase for kind, _, _ in by.those(Category.GRADIENT) if not kind.stays}
    graded |= {kinds[of[index]].phase for index in left}
    single |= dict.fromkeys(_workspaces(by, single, graded), (Category.WORKSPACE, Role.LIBRARY))
    return _written(buffers, by, single)


def _written(buffers: Buffers, by: _Kinds, single: Mapping[int, Told]) -> Buffers:
    """With what is said of each kind, and of some buffers by themselves."""
    categories = [CATEGORIES[category] for category, _ in by.told]
    roles = [ROLES[role] for _, role in by.told]
    found = array("b", [categories[number] for number in by.of]), array("b", [roles[number] for number in by.of])
    for index, (category, role) in single.items():
        found[0][index], found[1][index] = CATEGORIES[category], ROLES[role]
    return dataclasses.replace(buffers, categories=found[0], roles=found[1], made={})


def _kinds(
    buffers: Buffers, spans: tuple[Sequence[int], Sequence[int]], ended: Sequence[int], sites: Sequence[Site],
    phases: Sequence[Phase], end: int,
) -> tuple[list[Kind], list[int]]:  # fmt: skip
    """Every kind there is, and the number of that of each buffer."""
    begins, stops = [phase.start for phase in phases], [phase.stop for phase in phases]
    made, freed = _own(sites)
    known: dict[tuple[int, int, int, bool, bool, bool], int] = {}
    numbers = []
    for site, size, start, stop, gone in zip(buffers.ops, buffers.sizes, *spans, ended, strict=True):
        phase = max(0, bisect_right(begins, start) - 1)
        kind = site, size, phase, stop >= stops[phase], stop == end, made[site] == freed[gone]
        numbers.append(known.setdefault(kind, len(known)))
    return [Kind(*kind) for kind in known], numbers


def _own(sites: Sequence[Site]) -> tuple[list[int], list[int]]:
    """Numbers that are the same where an op frees itself what it allocates: of sites as those where something is made,
    and where something is freed. The last is of no site."""
    known: dict[tuple[str, str], int] = {}
    freed = [known.setdefault((site.op, site.node), len(known)) for site in sites]
    tensors = [site.op.startswith("aten.") and site.kind == "tensor" for site in sites]
    return [one if tensor else -1 for one, tensor in zip(freed, tensors, strict=True)] + [-1], [*freed, -2]


def _left_gradients(by: _Kinds, single: Mapping[int, Told]) -> Iterator[int]:
    """Gradients of the step before a recording began, which its first step lets go of: what nothing else tells and was
    there before, of the sizes that one backward leaves and as many of each."""
    left = _of_one_backward(by)
    there = [
        category is Category.UNKNOWN and by.phases[kind.phase].name == "before" and not kind.stays
        for kind, (category, _) in zip(by.kinds, by.told, strict=True)
    ]
    for index in by.rows(there):
        size = by.kinds[by.of[index]].size
        if index not in single and left[size] > 0:
            left[size] -= 1
            yield index


def _of_one_backward(by: _Kinds) -> Counter[int]:
    """How many gradients of each size a backward leaves, of the one that leaves most."""
    gradients: dict[int, Counter[int]] = {}
    for kind, phase, count in by.those(Category.GRADIENT):
        gradients.setdefault(phase.start, Counter())[kind.size] += count
    return max(gradients.values(), key=Counter.total, default=Counter[int]()).copy()


def _workspaces(by: _Kinds, single: Mapping[int, Told], graded: set[int]) -> Iterator[int]:
    """What is as large as cuBLAS's workspaces and stays: of what was there before, what no gradient has the size of; of
    what a backward left, what stays where all its gradients go.

    Args:
        graded: phases with gradients that go.
    """
    wanted = [
        kind.size in cublas.KEPT and kind.stays and (
            (category is Category.UNKNOWN and by.phases[kind.phase].name == "before" and bool(graded))
            or (category is Category.GRADIENT and kind.phase in graded)
        )
        for kind, (category, _) in zip(by.kinds, by.told, strict=True)
    ]  # fmt: skip
    return (index for index in by.rows(wanted) if index not in single)


def _spans(events: Events, count: int) -> tuple[Sequence[int], Sequence[int]]:
    """Of each buffer the event with which its life begins, and that with which it ends."""
    if len(events) >= columns.MANY:
        actions, buffers = events.columns[:2]
        return columns.spans(actions, buffers, count, int(Action.ALLOC), tuple(map(int, ENDS)))
    start, stop = [0] * count, [len(events)] * count
    for place, (action, buffer) in enumerate(zip(*events.columns[:2], strict=True)):
        if action == Action.ALLOC:
            start[buffer] = place
        elif action in ENDS:
            stop[buffer] = place
    return start, stop


def _one(kind: Kind, site: Site, phase: Phase, end: int) -> tuple[Category, Role]:
    """By itself: where it was made, and whether it outlived its phase."""
    if kind.inside:
        return Category.WORKSPACE, Role.TEMPORARY
    forward = (phase.name == "forward" and phase.stop < end) or (phase.name == "before" and site.phase == "forward")
    product = not site.op.startswith("aten.") or site.op in _PRODUCTS
    if site.kind == "library" or (kind.size in cublas.KEPT and kind.stays and forward and product):
        return Category.WORKSPACE, Role.LIBRARY
    if site.kind == "raw":
        return Category.WORKSPACE, Role.TEMPORARY
    if site.inner.startswith(_CACHES) and phase.name == "forward":
        return (Category.CACHE if kind.past else Category.TEMPORARY), Role.OUTPUT
    lasting = {"forward": Category.ACTIVATION, "backward": Category.GRADIENT, "optimizer": Category.OPTIMIZER}
    if phase.name in lasting:
        return lasting[phase.name] if kind.past else Category.TEMPORARY, Role.OUTPUT
    by_name = {"input": Category.INPUT, "load": Category.INPUT, "update": Category.TEMPORARY}
    if site.kind == "model":
        return Category.PARAMETER, Role.OUTPUT
    if phase.name in by_name:
        return by_name[phase.name], Role.OUTPUT
    own = Category.INPUT if site.source and not site.phase else Category.UNKNOWN  # a line outside of any module
    return lasting.get(site.phase, own), Role.OUTPUT


def _unfinished(kinds: Sequence[Kind], told: Sequence[Told], phases: Sequence[Phase], end: int) -> list[Told]:
    """A backward in which the recording ends has not let go of its own results: what has no parameter's size is one."""
    rows = [(kind, phases[kind.phase], *one) for kind, one in zip(kinds, told, strict=True)]
    sizes = {
        kind.size for kind, phase, category, _ in rows
        if category is Category.PARAMETER or (category is Category.GRADIENT and phase.stop < end)
    }  # fmt: skip
    return [
        (Category.TEMPORARY, role) if category is Category.GRADIENT and phase.stop == end and kind.size not in sizes
        else (category, role)
        for kind, phase, category, role in rows
    ]  # fmt: skip


def _by_sizes(by: _Kinds, spans: tuple[Sequence[int], Sequence[int]]) -> Iterator[tuple[int, Category]]:
    """Parameters and optimizer state among what nothing else tells, by the sizes of gradients: of what was made before
    the last of these and outlives it."""
    gradients = by.rows([category is Category.GRADIENT for category, _ in by.told])
    last = max((spans[0][index] for index in gradients), default=0)
    most = _of_one_backward(by)
    made = bool(by.those(Category.OPTIMIZER))
    wanted = most.copy()
    for kind, _, count in by.those(Category.PARAMETER):
        wanted[kind.size] -= count
    state = Counter({size: 0 if made else _STATE * count for size, count in most.items()})
    untold = [
        category is Category.UNKNOWN or (category is Category.INPUT and by.phases[kind.phase].name in _BEFORE)
        for kind, (category, _) in zip(by.kinds, by.told, strict=True)
    ]
    for index in by.rows(untold):
        kind, (category, _) = by.kinds[by.of[index]], by.told[by.of[index]]
        if not spans[0][index] < last < spans[1][index]:
            continue
        if wanted[kind.size] > 0:
            wanted[kind.size] -= 1
            yield index, Category.PARAMETER
        elif (category is Category.UNKNOWN or by.phases[kind.phase].name == "before") and state[kind.size] > 0:
            state[kind.size] -= 1
            yield index, Category.OPTIMIZER
