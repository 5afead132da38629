"""Rows of which many are alike: what is asked of a kind is asked once, and not of millions."""

from __future__ import annotations

from array import array
from collections.abc import Callable, Iterable, Sequence
from itertools import count

from memgraph.trace import columns
from memgraph.trace.parts import Buffer, Op
from memgraph.trace.rows import Buffers, Column, Ops


def modules(ops: Sequence[Op]) -> set[str]:
    """Those that ops ran in, each once."""
    if isinstance(ops, Ops):
        return {ops.texts[place] for place in columns.distinct(ops.modules)}
    return {op.module for op in ops}


def named(ops: Sequence[Op], wanted: Callable[[str], bool]) -> list[int]:
    """The ops whose name is one of those wanted, by number. Each name is asked about once."""
    if isinstance(ops, Ops):
        return columns.those(ops.names, [place for place in columns.distinct(ops.names) if wanted(ops.texts[place])])
    names = {name for name in {op.name for op in ops} if wanted(name)}
    return [number for number, op in enumerate(ops) if op.name in names] if names else []


def kinds_of_ops(ops: Sequence[Op]) -> Column:
    """For each op the first of the same name, module and source, and that is of a backward or none like it."""
    if isinstance(ops, Ops):
        return _first_alike(ops.names, ops.modules, ops.sources, map((-1).__lt__, ops.forwards))
    return _first_alike(
        [op.name for op in ops], [op.module for op in ops], [op.source for op in ops], [op.forward > -1 for op in ops]
    )


def kinds_of_buffers(buffers: Sequence[Buffer], kinds: Column) -> Column:
    """For each buffer the first that is the same in all but its bytes, its stream and the number of its op.

    Args:
        kinds: those of the ops.
    """
    made = array(kinds.typecode, kinds)
    made.append(-1)  # the last, for what no op made
    if isinstance(buffers, Buffers):
        makers = map(made.__getitem__, buffers.ops)
        return _first_alike(makers, buffers.roles, buffers.categories, buffers.names, buffers.specs)
    return _first_alike([made[buffer.op] for buffer in buffers], [buffer[2:7] for buffer in buffers])


def _first_alike(*told: Iterable[object]) -> Column:
    """For each row of some columns the place of the first that is equal."""
    first: dict[object, int] = {}
    return array("q", map(first.setdefault, zip(*told, strict=True), count()))
