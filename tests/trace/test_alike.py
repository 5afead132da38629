"""What is alive, equal buffers together: all of it is there, once, in order, and nothing unlike is put together."""

from __future__ import annotations

import dataclasses
from itertools import chain
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

import memgraph
from memgraph.trace import Buffer, Category, Op, Role, TensorSpec, Trace, columns, groups, trace_file
from memgraph.trace.rows import Buffers
from tests.fuzzing import seeded


def told(buffer: Buffer, op: Op | None) -> object:
    """All but bytes and stream, and the numbers of ops."""
    return buffer[2:7], op and (op[:6], op.forward >= 0)


def in_full(trace: Trace, event: int) -> list[tuple[object, list[int], int]]:
    return [(told(kind.buffer, kind.op), list(kind.rows), kind.bytes) for kind in trace.alike_at(event)]


def by_hand(trace: Trace, event: int) -> list[tuple[object, list[int], int]]:
    groups: dict[object, list[int]] = {}
    for index in trace.live_at(event):
        buffer = trace.buffers[index]
        groups.setdefault(told(buffer, trace.ops[buffer.op] if buffer.op >= 0 else None), []).append(index)
    return [(kind, rows, sum(trace.buffers[index].size for index in rows)) for kind, rows in groups.items()]


CHOICES = {
    "role": list(Role), "category": [Category.ACTIVATION, Category.PARAMETER], "name": ["", "a", "b"],
    "shape": [(), (2,), (2, 3)], "dtype": ["float32", "int8"], "size": [1, 512],
}  # fmt: skip
OPS = {"name": ["aten.mm.default", "aten.t.default"], "module": ["", "x.0", "x.1"], "source": ["a.py:1", ""],
       "outputs": [(), (TensorSpec((2,), "float32"),)]}  # fmt: skip


@st.composite
def varied(draw: st.DrawFn, toy: Trace) -> Trace:
    """The toy trace with other buffers and ops at the same places."""
    buffers = tuple(
        one._replace(**{name: draw(st.sampled_from(values)) for name, values in CHOICES.items()})
        for one in toy.buffers
    )  # fmt: skip
    ops = tuple(
        one._replace(**{name: draw(st.sampled_from(values)) for name, values in OPS.items()}) for one in toy.ops
    )
    return dataclasses.replace(toy, buffers=buffers, ops=ops)


@seeded(60)
@given(st.data())
def test_equal_buffers_are_together_and_no_others(
    toy: Trace, tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    trace = data.draw(varied(toy))
    events = range(len(trace.events))
    wanted = [by_hand(trace, event) for event in events]
    assert [in_full(trace, event) for event in events] == wanted
    path = tmp_path_factory.mktemp("varied") / "trace"
    trace.save(path)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(columns, "MANY", 1)
        patch.setattr(trace_file, "_LONG", 0)
        many = memgraph.load(path)
        assert isinstance(many.buffers, Buffers)
        assert [in_full(many, event) for event in events] == wanted


def test_what_is_alive_is_there_once(toy: Trace, saved: Path) -> None:
    kinds = toy.alike_at(toy.peak.event)
    assert sorted(chain.from_iterable(kind.rows for kind in kinds)) == list(toy.live_at(toy.peak.event))
    assert sum(kind.bytes for kind in kinds) == toy.peak.requested
    assert sum(kind.count for kind in kinds) == len(toy.live_at(toy.peak.event))
    assert toy.alike(()) == ()


def test_keys_of_many_columns_stay_apart() -> None:
    """Each column has more values than fit beside those of the others in one number: 2^40 times 2^40."""
    from array import array

    one, two = array("q", [0, 2**40, 0, 2**40]), array("q", [2**40, 0, 0, 2**40])
    of, none = array("q", [-1] * 4), array("q", [7])
    places, starts, sums = groups.alike(range(4), (one, two, one), of, (none,), array("q", [1, 2, 4, 8]))
    assert (list(places), starts, sums) == ([0, 1, 2, 3], [0, 1, 2, 3], [1, 2, 4, 8])
