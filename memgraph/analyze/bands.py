"""A run's buffers in groups that can be drawn: by buffer, by kind, by module, block, op or category."""

from __future__ import annotations

import functools
import heapq
import re
from collections.abc import Callable, Hashable, Iterator, Sequence
from typing import NamedTuple

from memgraph.analyze.attribution import describe, kind_of, starred
from memgraph.trace import ENDS, Action, Buffer, Category, Op, Trace

BY = ("auto", "buffer", "kind", "block", "module", "op", "category")
"""How buffers may be grouped. `kind`: equal buffers of equal layers together, as `memgraph analyze` lists them;
`block`: the module up to its first number; `auto`: `buffer` where the largest show nearly everything, else `kind`."""

STACK = (
    Category.PARAMETER, Category.OPTIMIZER, Category.GRADIENT, Category.BUFFER, Category.INPUT, Category.CACHE,
    Category.ACTIVATION,
    Category.UNSHARDED, Category.WORKSPACE, Category.COMMUNICATION, Category.TEMPORARY, Category.UNKNOWN,
)  # fmt: skip
"""From the bottom up: what stays is below, what comes and goes is above."""

_STAYS = (Category.PARAMETER, Category.BUFFER, Category.OPTIMIZER, Category.GRADIENT)
_APART = (*_STAYS, Category.UNKNOWN)
"""What is left of these is a band of its own at its place, rather than among the rest."""
_ENOUGH = 0.9
"""Share of the highest moment that single buffers have to show for `auto` to draw them one by one."""
_NUMBERED = re.compile(r"^(.*?(?<![A-Za-z0-9_])\d+)(?:\.|$)")
_NO_OP = Op("", -1)
_CHANGES = frozenset(map(int, (Action.ALLOC, *ENDS)))


class Band(NamedTuple):
    """Buffers that are drawn as one."""

    name: str
    """What it is, in a phrase."""
    category: Category | None
    """Of all of its buffers; None for a rest of several."""
    buffers: tuple[int, ...]
    """Indices, in order of allocation."""
    rest: bool = False
    """Whether it is what was left over."""


def op_of(trace: Trace, buffer: Buffer) -> Op:
    """The op that allocated a buffer; one without a name where there was none."""
    return trace.ops[buffer.op] if buffer.op >= 0 else _NO_OP


def module_of(trace: Trace, buffer: Buffer) -> str:
    """The module that a buffer belongs to: by its own name (`exp_avg of head.weight`: `head`), else the one running."""
    if buffer.name and buffer.category in _STAYS:
        return buffer.name.rpartition(" of ")[2].rpartition(".")[0]
    return op_of(trace, buffer).module


def block_of(module: str) -> str:
    """`decoder.blocks.17` for `decoder.blocks.17.mlp.up_proj`; the first part of a path without a number."""
    numbered = _NUMBERED.match(module)
    return numbered[1] if numbered else module.partition(".")[0]


@functools.lru_cache(2**14)
def short_op(name: str) -> str:
    """`mm` for `aten.mm.default`."""
    return name.removeprefix("aten.").rpartition(".")[0] or name


def bands(trace: Trace, by: str, top: int, start: int, stop: int) -> tuple[Band, ...]:
    """The buffers alive between two events in at most `top` bands, from the bottom of the stack up, and what is left:
    other parameters, optimizer state and gradients at their places, the rest on top.

    Args:
        by: one of `BY`.
        top: how many bands to tell apart, those that are ever the highest.
    """
    alive = _alive(trace, start, stop)
    by = resolved(trace, by, top)
    groups = _groups(trace, by, alive)
    highest = _highest(trace, groups, start, stop)
    chosen = set(sorted(groups, key=lambda name: -highest[name])[:top])
    return tuple(sorted(_named(trace, by, groups, chosen), key=lambda band: _place(trace, band)))


def resolved(trace: Trace, by: str, top: int) -> str:
    """What `auto` means for a trace: `buffer` if the largest buffers hold nearly all of the peak, else `kind`."""
    if by != "auto":
        return by
    sizes = list(map(trace.sizes.__getitem__, trace.live_at(trace.peak.event)))
    return "buffer" if sum(heapq.nlargest(top, sizes)) >= _ENOUGH * sum(sizes) else "kind"


def _alive(trace: Trace, start: int, stop: int) -> list[int]:
    lives = enumerate(zip(*trace.spans, strict=True))
    return [index for index, (born, dead) in lives if 0 <= born < stop and dead > start]


def _groups(trace: Trace, by: str, alive: Sequence[int]) -> dict[Hashable, list[int]]:
    """By what they are drawn as. Buffers of a kind are drawn as the same, unless each is by itself."""
    if by == "buffer":
        return {index: [index] for index in alive}
    key, kinds = _KEYS[by](trace), trace.kinds_of_buffers
    names = {kind: key(kind) for kind in set(kinds)}
    groups: dict[Hashable, list[int]] = {}
    for index in alive:
        groups.setdefault(names[kinds[index]], []).append(index)
    return groups


Key = Callable[[int], Hashable]


def _by_kind(trace: Trace) -> Key:
    """As `memgraph analyze` groups what is alive."""
    return lambda index: kind_of(trace, index)


def _by_module(trace: Trace) -> Key:
    return lambda index: (trace.buffers[index].category, starred(module_of(trace, trace.buffers[index])))


def _by_block(trace: Trace) -> Key:
    return lambda index: (trace.buffers[index].category, block_of(module_of(trace, trace.buffers[index])))


def _by_op(trace: Trace) -> Key:
    return lambda index: (trace.buffers[index].category, short_op(op_of(trace, trace.buffers[index]).name))


def _by_category(trace: Trace) -> Key:
    return lambda index: trace.buffers[index].category


_KEYS: dict[str, Callable[[Trace], Key]] = {
    "kind": _by_kind, "module": _by_module, "block": _by_block, "op": _by_op, "category": _by_category,
}  # fmt: skip


def _highest(trace: Trace, groups: dict[Hashable, list[int]], start: int, stop: int) -> dict[Hashable, int]:
    """The most bytes that each group ever holds between two events."""
    names = list(groups)
    of = [-1] * len(trace.buffers)
    for place, name in enumerate(names):
        for index in groups[name]:
            of[index] = place
    now = [0] * len(names)
    for place, change in changes(trace, of, 0, start + 1):
        now[place] += change
    most = list(now)
    for place, change in changes(trace, of, start + 1, stop):
        now[place] += change
        most[place] = max(most[place], now[place])
    return dict(zip(names, most, strict=True))


def changes(trace: Trace, of: Sequence[int], start: int, stop: int) -> Iterator[tuple[int, int]]:
    """What events do to groups: (group, bytes more). `of` says the group of each buffer, -1 for none."""
    actions, buffers = (column[start:stop] for column in trace.events.columns[:2])
    sizes, alloc = trace.sizes, int(Action.ALLOC)
    for action, index in zip(actions, buffers, strict=True):
        if action in _CHANGES and of[index] >= 0:
            yield of[index], sizes[index] if action == alloc else -sizes[index]


def _named(trace: Trace, by: str, groups: dict[Hashable, list[int]], chosen: set[Hashable]) -> list[Band]:
    """The chosen groups, and the others together."""
    found: list[Band] = []
    left: dict[Category | None, list[int]] = {}
    for name, members in groups.items():
        category: Category | None = trace.buffers[members[0]].category
        if name in chosen:
            found.append(Band(_phrase(trace, by, members), category, tuple(members)))
        else:
            left.setdefault(category if category in _APART else None, []).extend(members)
    for category, members in left.items():
        alone = all(band.category is not category for band in found)
        title = f"{'' if alone else 'other '}{category}" if category else f"{len(members):,} others"
        found.append(Band(title, category, tuple(sorted(members)), rest=True))
    return found


def _phrase(trace: Trace, by: str, members: list[int]) -> str:
    first = trace.buffers[members[0]]
    if by == "category":
        return str(first.category)
    if by == "op":
        return f"{short_op(op_of(trace, first).name) or 'outside any op'}: {first.category}"
    if by in ("module", "block"):
        module = module_of(trace, first)
        return f"{(starred(module) if by == 'module' else block_of(module)) or 'outside any module'}: {first.category}"
    return describe(first, op_of(trace, first), layered=by == "kind")


def _place(trace: Trace, band: Band) -> tuple[int, bool, int, int]:
    """Where in the stack: what stays below; then what is freed last, so that little has to move when it goes."""
    level = STACK.index(band.category) if band.category else len(STACK)
    starts, stops = trace.spans
    return level, band.rest, -max(stops[index] for index in band.buffers), starts[band.buffers[0]]
