"""What the buffers of a snapshot are for: by when they were made, how long they lived, and which sizes come again.

Gradients are what a backward leaves behind. Each has the size of its parameter, so of what was there before a recording
began as many buffers of a size are parameters as there are gradients of it, and those beyond are the optimizer's.
"""

from __future__ import annotations

from bisect import bisect_right
from collections import Counter
from collections.abc import Iterator, Sequence

from memgraph.files.stacks import NOWHERE, Site
from memgraph.gpu import cublas
from memgraph.trace import Action, Buffer, Category, Events, Phase, Role
from memgraph.trace.refused import until_refused

_PRODUCTS = frozenset(f"aten.{name}" for name in (
    "mm", "addmm", "bmm", "baddbmm", "linear", "matmul", "mv", "addmv", "dot", "_addmm_activation", "convolution",
    "_scaled_dot_product_attention_math",
))  # fmt: skip
"""Ops that call cuBLAS, which has a workspace from the first of them on."""
_CACHES = "transformers/cache_utils.py:"
"""Where the cache classes of transformers make what they keep."""
_BEFORE = ("load", "before", "recorded")
_ALLOC, _ENDS = int(Action.ALLOC), frozenset((int(Action.FREE), int(Action.FREE_COMPLETED)))
_new = tuple.__new__
"""As a named tuple's own constructor, whose call in Python costs more than all the rest."""
_STATE = 2
"""Tensors of a parameter's size that an optimizer keeps of it at most, Adam's moments; three with `amsgrad`."""


def with_categories(
    buffers: Sequence[Buffer], events: Events, sites: Sequence[Site], phases: Sequence[Phase], ended: Sequence[int] = ()
) -> tuple[Buffer, ...]:
    """The buffers with a role and a category.

    Args:
        ended: of each buffer the site that freed it, as `ReadHistory` has them.
    """
    spans = _spans(events, len(buffers))
    starts = [phase.start for phase in phases]
    cut = [until_refused(phase, events) for phase in phases]
    born = [cut[max(0, bisect_right(starts, start) - 1)] for start, _ in spans]
    told = _told(buffers, sites, born, spans, len(events))
    for index, place in enumerate(ended):
        if place >= 0 and _inside(sites[buffers[index].op] if buffers[index].op >= 0 else NOWHERE, sites[place]):
            told[index] = Category.WORKSPACE, Role.TEMPORARY
    told = _unfinished(buffers, told, born, len(events))
    last = max(
        (start for (start, _), (kind, _) in zip(spans, told, strict=True) if kind is Category.GRADIENT), default=0
    )
    stays = [index for index, (start, stop) in enumerate(spans) if start < last < stop]
    for index, category in _by_sizes(buffers, told, born, stays):
        told[index] = category, Role.OUTPUT
    for index in _left_gradients(buffers, told, born, spans, len(events)):
        told[index] = Category.GRADIENT, Role.OUTPUT
    for index in _workspaces(buffers, told, born, spans, len(events)):
        told[index] = Category.WORKSPACE, Role.LIBRARY
    return tuple(
        [
            _new(Buffer, (size, op, role, category, *rest))
            for (size, op, _, _, *rest), (category, role) in zip(buffers, told, strict=True)
        ]
    )


def _told(
    buffers: Sequence[Buffer], sites: Sequence[Site], born: Sequence[Phase], spans: Sequence[tuple[int, int]], end: int
) -> list[tuple[Category, Role]]:
    """Of each buffer what it says by itself: the same of all of a site that live alike in a phase."""
    known: dict[tuple[int, int, bool, bool, bool], tuple[Category, Role]] = {}
    told = []
    for buffer, phase, (_, stop) in zip(buffers, born, spans, strict=True):
        op = buffer.op
        key = op, id(phase), stop >= phase.stop, stop == end, buffer.size in cublas.KEPT
        one = known.get(key)
        if one is None:
            one = known[key] = _one(buffer, sites[op] if op >= 0 else NOWHERE, phase, stop, end)
        told.append(one)
    return told


def _left_gradients(
    buffers: Sequence[Buffer], told: Sequence[tuple[Category, Role]], born: Sequence[Phase],
    spans: Sequence[tuple[int, int]], end: int,
) -> Iterator[int]:  # fmt: skip
    """Gradients of the step before a recording began, which its first step lets go of: what nothing else tells and was
    there before, of the sizes that one backward leaves and as many of each."""
    left = _of_one_backward(buffers, told, born)
    for index, (buffer, (category, _), phase) in enumerate(zip(buffers, told, born, strict=True)):
        there = category is Category.UNKNOWN and phase.name == "before" and spans[index][1] < end
        if there and left[buffer.size] > 0:
            left[buffer.size] -= 1
            yield index


def _of_one_backward(
    buffers: Sequence[Buffer], told: Sequence[tuple[Category, Role]], born: Sequence[Phase]
) -> Counter[int]:
    """How many gradients of each size a backward leaves, of the one that leaves most."""
    gradients: dict[int, Counter[int]] = {}
    for buffer, (category, _), phase in zip(buffers, told, born, strict=True):
        if category is Category.GRADIENT:
            gradients.setdefault(phase.start, Counter())[buffer.size] += 1
    return max(gradients.values(), key=Counter.total, default=Counter[int]()).copy()


def _workspaces(
    buffers: Sequence[Buffer], told: Sequence[tuple[Category, Role]], born: Sequence[Phase],
    spans: Sequence[tuple[int, int]], end: int,
) -> Iterator[int]:  # fmt: skip
    """What is as large as cuBLAS's workspaces and stays: of what was there before, what no gradient has the size of; of
    what a backward left, what stays where all its gradients go."""
    graded = Counter(phase.start for (kind, _), phase, (_, stop) in zip(told, born, spans, strict=True)
                     if kind is Category.GRADIENT and stop < end)  # fmt: skip
    for index, (buffer, (category, _), phase) in enumerate(zip(buffers, told, born, strict=True)):
        if buffer.size in cublas.KEPT and spans[index][1] == end:
            before = category is Category.UNKNOWN and phase.name == "before" and bool(graded)
            if before or (category is Category.GRADIENT and graded[phase.start]):
                yield index


def _spans(events: Events, count: int) -> list[tuple[int, int]]:
    start, stop = [0] * count, [len(events)] * count
    for place, (action, buffer) in enumerate(zip(*events.columns[:2], strict=True)):
        if action == _ALLOC:
            start[buffer] = place
        elif action in _ENDS:
            stop[buffer] = place
    return list(zip(start, stop, strict=True))


def _one(buffer: Buffer, site: Site, phase: Phase, stop: int, end: int) -> tuple[Category, Role]:
    """By itself: where it was made, and whether it outlived its phase."""
    forward = (phase.name == "forward" and phase.stop < end) or (phase.name == "before" and site.phase == "forward")
    product = not site.op.startswith("aten.") or site.op in _PRODUCTS
    if site.kind == "library" or (buffer.size in cublas.KEPT and stop == end and forward and product):
        return Category.WORKSPACE, Role.LIBRARY
    if site.kind == "raw":
        return Category.WORKSPACE, Role.TEMPORARY
    if site.inner.startswith(_CACHES) and phase.name == "forward":
        return (Category.CACHE if stop >= phase.stop else Category.TEMPORARY), Role.OUTPUT
    lasting = {"forward": Category.ACTIVATION, "backward": Category.GRADIENT, "optimizer": Category.OPTIMIZER}
    if phase.name in lasting:
        return lasting[phase.name] if stop >= phase.stop else Category.TEMPORARY, Role.OUTPUT
    by_name = {"input": Category.INPUT, "load": Category.INPUT, "update": Category.TEMPORARY}
    if site.kind == "model":
        return Category.PARAMETER, Role.OUTPUT
    if phase.name in by_name:
        return by_name[phase.name], Role.OUTPUT
    own = Category.INPUT if site.source and not site.phase else Category.UNKNOWN  # a line outside of any module
    return lasting.get(site.phase, own), Role.OUTPUT


def _inside(made: Site, freed: Site) -> bool:
    """Whether an op freed itself what it had allocated."""
    return made.op == freed.op and made.node == freed.node and made.op.startswith("aten.") and made.kind == "tensor"


def _unfinished(
    buffers: Sequence[Buffer], told: Sequence[tuple[Category, Role]], born: Sequence[Phase], end: int
) -> list[tuple[Category, Role]]:
    """A backward in which the recording ends has not let go of its own results: what has no parameter's size is one."""
    sizes = {
        buffer.size for buffer, (category, _), phase in zip(buffers, told, born, strict=True)
        if category is Category.PARAMETER or (category is Category.GRADIENT and phase.stop < end)
    }  # fmt: skip
    return [
        (Category.TEMPORARY, role) if category is Category.GRADIENT and phase.stop == end and buffer.size not in sizes
        else (category, role)
        for buffer, (category, role), phase in zip(buffers, told, born, strict=True)
    ]  # fmt: skip


def _by_sizes(
    buffers: Sequence[Buffer], told: Sequence[tuple[Category, Role]], born: Sequence[Phase], stays: Sequence[int]
) -> Iterator[tuple[int, Category]]:
    """Parameters and optimizer state among what nothing else tells, by the sizes of gradients."""
    most = _of_one_backward(buffers, told, born)
    made = any(category is Category.OPTIMIZER for category, _ in told)
    wanted = most.copy()
    wanted.subtract(buffer.size for buffer, (category, _) in zip(buffers, told, strict=True)
                    if category is Category.PARAMETER)  # fmt: skip
    state = Counter({size: 0 if made else _STATE * count for size, count in most.items()})
    for index in stays:
        size, (category, _) = buffers[index].size, told[index]
        if category is Category.UNKNOWN or (category is Category.INPUT and born[index].name in _BEFORE):
            if wanted[size] > 0:
                wanted[size] -= 1
                yield index, Category.PARAMETER
            elif (category is Category.UNKNOWN or born[index].name == "before") and state[size] > 0:
                state[size] -= 1
                yield index, Category.OPTIMIZER
