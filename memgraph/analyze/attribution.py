"""Who holds the memory at a moment: buffers grouped over equal layers, each with where it comes from."""

from __future__ import annotations

import functools
import re
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from itertools import chain
from typing import NamedTuple

from memgraph.analyze.lines import both, own_lines
from memgraph.trace import Buffer, Category, Op, Role, Trace
from memgraph.trace.alike import Alike

_NUMBER = re.compile(r"(?<![A-Za-z0-9_])\d+(?![A-Za-z0-9_])")
_NO_OP = Op("", -1)


class Consumer(NamedTuple):
    """Buffers of one kind that are alive together."""

    name: str
    """A parameter's or the like, with `*` for the layer where there are several, or empty."""
    op: str
    module: str
    """With `*` for the layer's number where there are several."""
    source: str
    bytes: int
    count: int  # type: ignore[assignment]  # a tuple has a method of this name, which nobody calls on a row
    shape: tuple[int, ...]
    dtype: str
    category: Category
    provenance: str
    """A phrase: `output of _log_softmax in decoder, nanovlm.py:139`."""


def consumers(trace: Trace, event: int | None = None) -> tuple[Consumer, ...]:
    """What is alive after an event, by default at the requested peak, grouped over equal layers; the largest first."""
    moment = trace.peak.event if event is None else event
    lines = own_lines(trace)
    found = (_with_both(_consumer(kinds), lines) for kinds in _groups(trace, moment).values())
    return tuple(sorted(found, key=_order))


def grouped(trace: Trace, event: int | None = None) -> tuple[tuple[Consumer, tuple[int, ...]], ...]:
    """As `consumers`, each with the indices of its buffers."""
    moment = trace.peak.event if event is None else event
    lines = own_lines(trace)
    rows = [
        (_with_both(_consumer(kinds), lines), tuple(sorted(chain.from_iterable(kind.rows for kind in kinds))))
        for kinds in _groups(trace, moment).values()
    ]
    return tuple(sorted(rows, key=lambda row: _order(row[0])))


def _order(row: Consumer) -> tuple[int, str]:
    return -row.bytes, row.provenance


def _groups(trace: Trace, moment: int) -> dict[tuple[object, ...], list[Alike]]:
    groups: defaultdict[tuple[object, ...], list[Alike]] = defaultdict(list)
    for kind in trace.alike_at(moment):
        groups[_key(kind.buffer, kind.op or _NO_OP)].append(kind)
    return groups


def kind_of(trace: Trace, index: int) -> tuple[object, ...]:
    """What buffers have in common that are grouped: equal for equal buffers of equal layers."""
    buffer = trace.buffers[index]
    return _key(buffer, _op(trace, buffer))


def describe(buffer: Buffer, op: Op, *, layered: bool = True) -> str:
    """A buffer in a phrase: `output of _log_softmax in decoder, nanovlm.py:139`.

    Args:
        op: the one that allocated it.
        layered: put `*` for the numbers of layers.
    """
    path = starred if layered else str
    return _phrase(buffer, op, path(buffer.name), path(op.module))


@functools.lru_cache(2**14)
def starred(path: str) -> str:
    """`decoder.blocks.*.attn` for `decoder.blocks.17.attn`."""
    return _NUMBER.sub("*", path)


def _op(trace: Trace, buffer: Buffer) -> Op:
    return trace.ops[buffer.op] if buffer.op >= 0 else _NO_OP


def _key(buffer: Buffer, op: Op) -> tuple[object, ...]:
    if buffer.name:
        return buffer.category, starred(buffer.name), buffer.shape, buffer.dtype
    return (
        buffer.category,
        buffer.role,
        op.name,
        starred(op.module),
        op.source,
        buffer.shape,
        buffer.dtype,
        op.forward >= 0,
    )


def _consumer(kinds: Sequence[Alike]) -> Consumer:
    first, op = kinds[0].buffer, kinds[0].op or _NO_OP
    name, module = (_common(k.buffer.name for k in kinds), _common((k.op or _NO_OP).module for k in kinds))
    return Consumer(
        name, op.name, module, op.source, sum(kind.bytes for kind in kinds), sum(kind.count for kind in kinds),
        first.shape, first.dtype, first.category, _phrase(first, op, name, module),
    )  # fmt: skip


def _with_both(row: Consumer, lines: Mapping[str, str]) -> Consumer:
    if row.name or row.source not in lines:
        return row
    return row._replace(provenance=row.provenance.removesuffix(row.source) + both(lines, row.source))


def _common(paths: Iterable[str]) -> str:
    """The path that all have, with `*` for the layer's number only where they are of several layers."""
    path, *others = paths
    return path if others.count(path) == len(others) else starred(path)


def _phrase(buffer: Buffer, op: Op, name: str, module: str) -> str:
    if name:
        singular = {Category.PARAMETER: "parameter ", Category.BUFFER: "buffer "}.get(buffer.category, "")
        return f"{singular}{name}"
    what = op.name.removeprefix("aten.").rpartition(".")[0] or op.name or "something outside any op"
    kind = {Role.OUTPUT: "output of", Role.TEMPORARY: "temporary of", Role.LIBRARY: "library workspace of"}[buffer.role]
    place = f" in {module}" if module else ""
    source = f", {op.source}" if op.source else ""
    return f"{kind} {what}{place}{source}"
