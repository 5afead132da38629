"""Rows of which many are alike: what is asked of a kind is asked once, and not of millions."""

from __future__ import annotations

from array import array
from collections.abc import Callable, Iterable, Sequence
from itertools import accumulate, chain, count
from typing import NamedTuple

from memgraph.trace import columns, groups
from memgraph.trace.parts import Buffer, Op
from memgraph.trace.rows import Buffers, Column, Ops, Row, Rows


def modules(ops: Sequence[Op]) -> set[str]:
    """Those that ops ran in, each once."""
    if isinstance(ops, Ops):
        return {ops.texts[place] for place in columns.distinct(ops.modules)}
    return {op.module for op in ops}


def by_module(ops: Sequence[Op]) -> tuple[Sequence[str], Column]:
    """A table of texts, and for each op the place of its module there."""
    if isinstance(ops, Ops):
        return ops.texts, ops.modules
    table: dict[str, int] = {}
    places = array("q", [table.setdefault(op.module, len(table)) for op in ops])
    return list(table), places


def distinct(places: Column) -> list[int]:
    """Each number of a column once, in order."""
    return columns.distinct(places) if len(places) >= columns.MANY else sorted(set(places))


def reader(ops: Sequence[Op]) -> Callable[[int], Sequence[int]]:
    """What tells which ops one reads the results of."""
    if not isinstance(ops, Ops):
        return lambda index: ops[index].reads
    backs = ops.reads
    if backs is None:
        return lambda index: ()
    distances = ops.distances
    return lambda index: [index - back for back in distances[backs[index]]]


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


class Alike(NamedTuple):
    """Buffers that are the same in all but their bytes, their stream, and which op it was."""

    buffer: Buffer
    """The first of them."""
    op: Op | None
    """That made it. The others' are the same in all but their numbers and those of what they read."""
    count: int  # type: ignore[assignment]  # a tuple has a method of this name, which nobody calls on a row
    bytes: int
    """Of all together."""
    places: Sequence[int]
    start: int
    """Where in `places` they stand."""

    @property
    def rows(self) -> Sequence[int]:
        """Their indices, in order of allocation."""
        return self.places[self.start : self.start + self.count]


def alike(rows: Sequence[int], ops: Sequence[Op], buffers: Sequence[Buffer], sizes: Column) -> tuple[Alike, ...]:
    """Buffers by what they are, in the order of the first of each. What is asked of all that is alive is asked of
    these: they are as many as a model has lines and shapes, not as many as there are tensors.

    Args:
        rows: their indices.
    """
    places, starts, sums = _groups(rows, ops, buffers, sizes)
    stops = [*starts, len(places)][1:]
    firsts = list(map(_getter(buffers), map(places.__getitem__, starts)))
    op = _getter(ops)
    return tuple([
        Alike(first, op(first.op) if first.op >= 0 else None, stop - start, size, places, start)
        for first, start, stop, size in zip(firsts, starts, stops, sums, strict=True)
    ])  # fmt: skip


def _groups(
    rows: Sequence[int], ops: Sequence[Op], buffers: Sequence[Buffer], sizes: Column
) -> tuple[Sequence[int], list[int], list[int]]:
    """As `groups.alike`."""
    if isinstance(buffers, Buffers) and isinstance(ops, Ops):
        told = (buffers.roles, buffers.categories, buffers.names, buffers.specs)
        back = columns.from_0_on(ops.forwards)
        further = (ops.names, ops.phases, ops.modules, ops.sources, ops.inputs, ops.outputs, back)
        return groups.alike(rows, told, buffers.ops, further, sizes)
    found: dict[object, list[int]] = {}
    makers = _kinds_of_makers(rows, ops, buffers)
    for index in rows:
        found.setdefault((makers[buffers[index].op], buffers[index][2:7]), []).append(index)
    starts = [0, *accumulate(map(len, found.values()))][:-1]
    sums = [sum(map(sizes.__getitem__, members)) for members in found.values()]
    return list(chain.from_iterable(found.values())), starts, sums


def _getter(rows: Sequence[Row]) -> Callable[[int], Row]:
    """One row, which is not kept among those that were asked for: these may be very many."""
    return rows.row if isinstance(rows, Rows) else rows.__getitem__


def _kinds_of_makers(rows: Sequence[int], ops: Sequence[Op], buffers: Sequence[Buffer]) -> dict[int, int]:
    """By op; what an op of thousands of tensors is asked, it is asked once."""
    kinds: dict[object, int] = {}
    makers = {buffers[index].op for index in rows} - {-1}
    found = {made: kinds.setdefault((ops[made][:6], ops[made].forward > -1), len(kinds)) for made in makers}
    return {-1: -1, **found}
