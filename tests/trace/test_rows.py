"""Rows in columns are the rows: equal to tuples of them, and used alike. Numbers read many at a time are JSON's."""

from __future__ import annotations

import dataclasses
import json
import pickle
from array import array
from collections.abc import Sequence
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

import memgraph
from memgraph.trace import Buffer, Op, Trace, alike, columns, decimals, rows, trace_file
from memgraph.trace.rows import Ops, Rows, numbers
from tests.fuzzing import seeded


@pytest.fixture
def of_columns(saved: Path, monkeypatch: pytest.MonkeyPatch) -> Trace:
    """The toy trace as one of millions of events is read."""
    monkeypatch.setattr(columns, "MANY", 1)
    monkeypatch.setattr(trace_file, "_LONG", 0)
    return memgraph.load(saved)


@pytest.mark.parametrize("field", ["ops", "buffers"])
def test_rows_are_used_as_a_tuple_of_them(toy: Trace, of_columns: Trace, field: str) -> None:
    plain: tuple[Op | Buffer, ...] = getattr(toy, field)
    rows: Sequence[Op | Buffer] = getattr(of_columns, field)
    assert isinstance(rows, Rows) and isinstance(plain, tuple)
    assert rows == plain and plain == rows and hash(rows) == hash(plain) and rows != plain[1:]
    assert tuple(rows) == plain == tuple(rows[index] for index in range(len(rows)))
    assert rows[-1] == plain[-1] and rows[1:] == plain[1:] and rows[::-2] == plain[::-2]
    assert plain[-1] in rows and rows.index(plain[-1]) == plain.index(plain[-1])
    assert pickle.loads(pickle.dumps(rows)) == plain
    with pytest.raises(IndexError):
        rows[len(plain)]


def test_one_row_that_differs_makes_them_differ(toy: Trace, of_columns: Trace) -> None:
    larger = toy.buffers[0]._replace(size=toy.buffers[0].size + 1)
    assert of_columns.buffers != (larger, *toy.buffers[1:])


def test_a_field_of_numbers_is_that_of_the_rows(toy: Trace, of_columns: Trace) -> None:
    for field in ("size", "op", "stream"):
        assert list(numbers(of_columns.buffers, field)) == list(numbers(toy.buffers, field))
    for field in ("phase", "forward"):
        assert list(numbers(of_columns.ops, field)) == list(numbers(toy.ops, field))


def test_a_trace_of_columns_is_saved_as_it_was_read(of_columns: Trace, saved: Path, tmp_path: Path) -> None:
    of_columns.save(tmp_path / "again")
    assert (tmp_path / "again").read_bytes() == saved.read_bytes()


def judged(text: bytes) -> list[int] | None:
    """What JSON's reader makes of it, where that is whole numbers that a column holds."""
    try:
        found = json.loads(b"[%b]" % text)
    except ValueError:
        return None
    whole = all(isinstance(value, int) and -(2**63) <= value < 2**63 for value in found)
    return [int(value) for value in found] if whole else None


def read(text: bytes) -> list[int] | None:
    try:
        return list(columns.numbers_in(memoryview(text)))
    except (ValueError, TypeError, OverflowError):
        return None


NUMBERS = st.one_of(st.integers(-9, 9), st.integers(-(2**33), 2**33), st.integers(-(2**64), 2**64)).map(str)
ODD = st.sampled_from(["", "-", "01", "-0", "1.0", "1e3", " 1", "1 ", "0x1", "--1", "1-2", "null", "true", '"1"'])


@seeded(300)
@given(st.lists(st.one_of(NUMBERS, NUMBERS, NUMBERS, ODD), min_size=1, max_size=8), st.integers(1, 40))
def test_numbers_are_what_json_says(texts: list[str], part: int) -> None:
    text = ",".join(texts).encode()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(decimals, "PART", part)
        assert read(text) == judged(text)


@pytest.mark.parametrize("digits", range(1, 20))
def test_numbers_of_every_length(digits: int) -> None:
    number = int("9123456789123456789"[:digits])
    texts = [number, -number, 10 ** (digits - 1), 0]
    assert read(json.dumps(texts, separators=(",", ":"))[1:-1].encode()) == texts


def test_what_is_alike_is_found_in_columns_as_in_rows(toy: Trace, of_columns: Trace) -> None:
    """By number: op 4 is `mm` in blocks.1.mlp of the backward, and no op before it is."""
    for trace in (toy, of_columns):
        assert alike.modules(trace.ops) == {"", "blocks.0.mlp", "blocks.1.mlp"}
        assert alike.named(trace.ops, lambda name: name.startswith("aten.mm")) == [2, 3, 4, 5]
        assert alike.named(trace.ops, lambda name: name == "aten.add.Tensor") == []
        assert list(alike.kinds_of_ops(trace.ops)) == list(range(len(trace.ops)))
    twice = dataclasses.replace(toy, ops=toy.ops * 2, buffers=toy.buffers * 2)
    half = len(toy.ops)
    kinds = alike.kinds_of_ops(twice.ops)
    assert list(kinds) == [*range(half), *range(half)]
    found = list(alike.kinds_of_buffers(twice.buffers, kinds))
    assert found[len(toy.buffers) :] == found[: len(toy.buffers)] == list(range(len(toy.buffers)))


def test_rows_that_are_asked_for_again_are_kept_up_to_a_number(
    of_columns: Trace, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rows, "_KEPT", 2)
    ops = of_columns.ops
    assert isinstance(ops, Rows)
    assert ops[0] is ops[0] and [ops[index] for index in range(4)] == list(ops[:4]) and len(ops.made) <= 2


def test_columns_whose_table_is_in_another_order_are_saved_alike(
    of_columns: Trace, saved: Path, tmp_path: Path
) -> None:
    """Equal traces give equal bytes."""
    ops = of_columns.ops
    assert isinstance(ops, Ops)
    last = len(ops.texts) - 1
    turned = {
        name: array("q", [last - place for place in getattr(ops, name)]) for name in ("names", "modules", "sources")
    }
    other = dataclasses.replace(of_columns, ops=dataclasses.replace(ops, texts=ops.texts[::-1], **turned))  # type: ignore[arg-type]
    assert other.ops == ops
    other.save(tmp_path / "other")
    assert (tmp_path / "other").read_bytes() == saved.read_bytes()
