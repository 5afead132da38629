"""A trace as one gzip-compressed JSON file: tables of distinct texts and tensors, columns of numbers. Equal traces give
equal bytes; `trace_file.py` reads it."""

from __future__ import annotations

import json
import zlib
from array import array
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Generic, TypeAlias, TypeVar

from memgraph.errors import UsageError
from memgraph.trace.data import TraceData
from memgraph.trace.garbage import no_garbage_collection
from memgraph.trace.output_file import StrPath, write_file
from memgraph.trace.parts import SCHEMA, Buffer, Op, TensorSpec
from memgraph.trace.rows import Buffers, Column, Ops

Value = TypeVar("Value")
Numbers: TypeAlias = "array[int] | list[int]"

_COMPRESSION = 6
"""Half the time of the highest, and 1 % larger."""
_COLUMNS = ("ops", "buffers", "events")


def save(trace: TraceData, path: StrPath, *, force: bool = False) -> None:
    """Write a trace. Equal traces give equal bytes.

    Raises:
        UsageError: the file exists and `force` is not given, or a setting is not plain JSON.
        MemgraphError: it cannot be written.
    """
    try:
        with no_garbage_collection():
            content = _packed(_pieces(_encode(trace)))
    except (TypeError, ValueError, RecursionError) as error:
        raise UsageError(f"the settings of the trace cannot be saved: {error}; keep texts and numbers there") from error
    write_file(path, content, force=force)


def _packed(pieces: Iterable[str]) -> bytes:
    """As gzip has it, with no time in it."""
    packer = zlib.compressobj(_COMPRESSION, zlib.DEFLATED, 16 + zlib.MAX_WBITS)
    return b"".join([*(packer.compress(piece.encode()) for piece in pieces), packer.flush()])


def _pieces(data: Mapping[str, Any]) -> Iterator[str]:
    """As `json.dumps` writes it; of millions of numbers one column at a time is text."""
    for number, (key, value) in enumerate(data.items()):
        yield f'{"," if number else "{"}"{key}":'
        if key in _COLUMNS:
            for place, column in enumerate(value):
                yield ("," if place else "[") + _text(column if isinstance(column, list) else column.tolist())
            yield "]"
        else:
            yield _text(value)
    yield "}"


def _text(value: Any) -> str:
    return json.dumps(value, separators=(",", ":"), allow_nan=False)


class _Table(Generic[Value]):
    """Distinct values, and each value's place among them."""

    def __init__(self) -> None:
        self._places: dict[Value, int] = {}

    def place(self, value: Value) -> int:
        return self._places.setdefault(value, len(self._places))

    def __iter__(self) -> Iterator[Value]:
        return iter(self._places)


def _encode(trace: TraceData) -> dict[str, Any]:
    texts: _Table[str] = _Table()
    tensors: _Table[tuple[TensorSpec, ...]] = _Table()
    distances: _Table[tuple[int, ...]] = _Table()
    ops, buffers = _op_columns(trace.ops, texts, tensors, distances), _buffer_columns(trace.buffers, texts, tensors)
    return {
        "schema": SCHEMA, "origin": trace.origin, "gpu": trace.gpu, "memory": trace.memory, "torch": trace.torch,
        "settings": dict(trace.settings), "assumptions": trace.assumptions, "unknown_ops": trace.unknown_ops,
        "phases": trace.phases, "texts": list(texts), "tensors": list(tensors), "distances": list(distances),
        "ops": ops, "buffers": buffers,
        "events": trace.events.columns,
        **({"compilation": trace.compilation} if trace.compilation else {}),
        **({"held": trace.held} if trace.held else {}),
        **({"facts": trace.facts} if trace.facts else {}),
        **({"rounds": trace.rounds} if trace.rounds else {}),
        **({"callers": trace.callers} if trace.callers else {}),
        **({"late": trace.late} if trace.late else {}),
    }  # fmt: skip


def _op_columns(
    ops: Sequence[Op],
    texts: _Table[str],
    tensors: _Table[tuple[TensorSpec, ...]],
    distances: _Table[tuple[int, ...]],
) -> list[Numbers]:
    """What an op reads is written as how far back it is: layer after layer the same."""
    if isinstance(ops, Ops):
        backs = array("i", [0]) * len(ops) if ops.reads is None else ops.reads
        return [
            _again(ops.names, ops.texts, texts), ops.phases, _again(ops.modules, ops.texts, texts),
            _again(ops.sources, ops.texts, texts), _again(ops.inputs, ops.tensors, tensors),
            _again(ops.outputs, ops.tensors, tensors), ops.forwards,
            _again(backs, ops.distances if ops.reads is not None else [()], distances),
        ]  # fmt: skip
    names, phases, modules, sources, inputs, outputs, forwards, reads = zip(*ops, strict=True) if ops else [()] * 8
    return [
        [texts.place(name) for name in names], list(phases), [texts.place(module) for module in modules],
        [texts.place(source) for source in sources], [tensors.place(specs) for specs in inputs],
        [tensors.place(specs) for specs in outputs], list(forwards),
        [distances.place(tuple([index - other for other in read])) for index, read in enumerate(reads)],
    ]  # fmt: skip


def _buffer_columns(
    buffers: Sequence[Buffer], texts: _Table[str], tensors: _Table[tuple[TensorSpec, ...]]
) -> list[Numbers]:
    """The streams only where one is not the default one."""
    if isinstance(buffers, Buffers):
        specs = {place: (TensorSpec(shape, buffers.dtype[place]),) for place, shape in buffers.shape.items()}
        return [
            buffers.sizes, buffers.ops, _again(buffers.roles, buffers.role, texts),
            _again(buffers.categories, buffers.category, texts), _again(buffers.names, buffers.texts, texts),
            _again(buffers.specs, specs, tensors), *([buffers.streams] if any(buffers.streams) else []),
        ]  # fmt: skip
    sizes, ops, roles, categories, names, shapes, dtypes, streams = zip(*buffers, strict=True) if buffers else [()] * 8
    return [
        list(sizes), list(ops), [texts.place(role) for role in roles], [texts.place(category) for category in
        categories], [texts.place(name) for name in names],
        [tensors.place((spec,)) for spec in map(TensorSpec, shapes, dtypes)],
        *([list(streams)] if any(streams) else []),
    ]  # fmt: skip


def _again(places: Column, values: Sequence[Value] | Mapping[int, Value], table: _Table[Value]) -> Column:
    """Places in the table that is written, in the order in which their values come; most often they are the same."""
    found = {place: table.place(values[place]) for place in dict.fromkeys(places)}
    if all(old == new for old, new in found.items()):
        return places
    return array("q", map(found.__getitem__, places))
