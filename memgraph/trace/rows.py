"""Millions of ops and buffers, kept in columns as their file has them: a row is made when it is asked for. They are
sequences of `Op` and `Buffer`, equal to tuples of the same."""

from __future__ import annotations

import operator
from array import array
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import repeat
from typing import Generic, TypeAlias, TypeVar, overload

from memgraph.trace.parts import Buffer, Category, Op, Role, TensorSpec

Row = TypeVar("Row", Op, Buffer)
Column: TypeAlias = "array[int]"

_KEPT = 2**17
"""Rows that are kept, some 20 MB; what is alive at a peak are seldom more."""


class Rows(Sequence[Row], Generic[Row]):
    """Rows that are made when they are asked for."""

    made: dict[int, Row]
    """Those that were asked for one by one, by what they were asked for with: the same are, again and again."""

    def row(self, index: int) -> Row:
        """Number `index`, from 0 on."""
        raise NotImplementedError

    def numbers(self, field: str) -> Column:
        """A field of all of them that is a number. Do not change it."""
        raise NotImplementedError

    @overload
    def __getitem__(self, index: int) -> Row: ...
    @overload
    def __getitem__(self, index: slice) -> tuple[Row, ...]: ...
    def __getitem__(self, index: int | slice) -> Row | tuple[Row, ...]:
        if isinstance(index, slice):
            return tuple(map(self.row, range(len(self))[index]))
        found = self.made.get(index)
        if found is None:
            if len(self.made) >= _KEPT:
                self.made.clear()
            found = self.made[index] = self.row(range(len(self))[index])
        return found

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Rows | tuple) and len(self) == len(other) and all(map(operator.eq, self, other))

    def __hash__(self) -> int:
        return hash(tuple(self))

    def __repr__(self) -> str:
        return f"<{len(self):,} {type(self).__name__.lower()}>"


@dataclass(frozen=True, eq=False, repr=False)
class Ops(Rows[Op]):
    """Columns of places in tables, and of numbers. All are of one length; every place is in its table."""

    names: Column
    phases: Column
    modules: Column
    sources: Column
    inputs: Column
    outputs: Column
    forwards: Column
    reads: Column | None
    """Places in `distances`; None where it is not known what ops read."""
    texts: Sequence[str]
    tensors: Sequence[tuple[TensorSpec, ...]]
    distances: Sequence[tuple[int, ...]]
    """How far back the ops are whose results one reads."""
    made: dict[int, Op] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.names)

    def row(self, index: int) -> Op:
        backs = self.distances[self.reads[index]] if self.reads is not None else ()
        return Op(
            self.texts[self.names[index]], self.phases[index], self.texts[self.modules[index]],
            self.texts[self.sources[index]], self.tensors[self.inputs[index]], self.tensors[self.outputs[index]],
            self.forwards[index], tuple([index - back for back in backs]),
        )  # fmt: skip

    def __iter__(self) -> Iterator[Op]:
        text, specs = self.texts.__getitem__, self.tensors.__getitem__
        backs = repeat((), len(self)) if self.reads is None else map(self.distances.__getitem__, self.reads)
        reads = (tuple([index - back for back in each]) for index, each in enumerate(backs))
        return map(
            Op, map(text, self.names), self.phases, map(text, self.modules), map(text, self.sources),
            map(specs, self.inputs), map(specs, self.outputs), self.forwards, reads,
        )  # fmt: skip

    def numbers(self, field: str) -> Column:
        return {"phase": self.phases, "forward": self.forwards}[field]


@dataclass(frozen=True, eq=False, repr=False)
class Buffers(Rows[Buffer]):
    """Likewise."""

    sizes: Column
    ops: Column
    roles: Column
    categories: Column
    names: Column
    specs: Column
    streams: Column
    texts: Sequence[str]
    role: Mapping[int, Role]
    """By place in `texts`, as `category`; `shape` and `dtype` by place in the table of tensors."""
    category: Mapping[int, Category]
    shape: Mapping[int, tuple[int, ...]]
    dtype: Mapping[int, str]
    made: dict[int, Buffer] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.sizes)

    def row(self, index: int) -> Buffer:
        spec = self.specs[index]
        return Buffer(
            self.sizes[index], self.ops[index], self.role[self.roles[index]], self.category[self.categories[index]],
            self.texts[self.names[index]], self.shape[spec], self.dtype[spec], self.streams[index],
        )  # fmt: skip

    def __iter__(self) -> Iterator[Buffer]:
        return map(
            Buffer, self.sizes, self.ops, map(self.role.__getitem__, self.roles),
            map(self.category.__getitem__, self.categories), map(self.texts.__getitem__, self.names),
            map(self.shape.__getitem__, self.specs), map(self.dtype.__getitem__, self.specs), self.streams,
        )  # fmt: skip

    def numbers(self, field: str) -> Column:
        return {"size": self.sizes, "op": self.ops, "stream": self.streams}[field]


def numbers(rows: Sequence[Op] | Sequence[Buffer], field: str) -> Column:
    """A field of all rows that is a number: `phase` or `forward` of ops; `size`, `op` or `stream` of buffers."""
    if isinstance(rows, Rows):
        return rows.numbers(field)
    return array("q", [getattr(row, field) for row in rows])
