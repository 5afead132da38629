"""A trace as one gzip-compressed JSON file: tables of distinct texts and tensors, columns of numbers. Equal traces give
equal bytes; `trace_file.py` reads it."""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterable, Iterator
from typing import Any, Generic, TypeVar

from memgraph.errors import UsageError
from memgraph.trace.data import TraceData
from memgraph.trace.output_file import StrPath, write_file
from memgraph.trace.parts import SCHEMA, Buffer, Op, TensorSpec

Value = TypeVar("Value")

_COMPRESSION = 6
"""Half the time of the highest, and 1 % larger."""


def save(trace: TraceData, path: StrPath, *, force: bool = False) -> None:
    """Write a trace. Equal traces give equal bytes.

    Raises:
        UsageError: the file exists and `force` is not given, or a setting is not plain JSON.
        MemgraphError: it cannot be written.
    """
    try:
        text = json.dumps(_encode(trace), separators=(",", ":"), allow_nan=False)
    except (TypeError, ValueError, RecursionError) as error:
        raise UsageError(f"the settings of the trace cannot be saved: {error}; keep texts and numbers there") from error
    write_file(path, gzip.compress(text.encode(), _COMPRESSION, mtime=0), force=force)


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
        "events": [column.tolist() for column in trace.events.columns],
        **({"compilation": trace.compilation} if trace.compilation else {}),
        **({"held": trace.held} if trace.held else {}),
        **({"facts": trace.facts} if trace.facts else {}),
        **({"rounds": trace.rounds} if trace.rounds else {}),
        **({"late": trace.late} if trace.late else {}),
    }  # fmt: skip


def _op_columns(
    ops: Iterable[Op],
    texts: _Table[str],
    tensors: _Table[tuple[TensorSpec, ...]],
    distances: _Table[tuple[int, ...]],
) -> list[list[int]]:
    """What an op reads is written as how far back it is: layer after layer the same."""
    names, phases, modules, sources, inputs, outputs, forwards, reads = zip(*ops, strict=True) if ops else [()] * 8
    return [
        [texts.place(name) for name in names], list(phases), [texts.place(module) for module in modules],
        [texts.place(source) for source in sources], [tensors.place(specs) for specs in inputs],
        [tensors.place(specs) for specs in outputs], list(forwards),
        [distances.place(tuple([index - other for other in read])) for index, read in enumerate(reads)],
    ]  # fmt: skip


def _buffer_columns(
    buffers: Iterable[Buffer], texts: _Table[str], tensors: _Table[tuple[TensorSpec, ...]]
) -> list[list[int]]:
    """The streams only where one is not the default one."""
    sizes, ops, roles, categories, names, shapes, dtypes, streams = zip(*buffers, strict=True) if buffers else [()] * 8
    specs = map(TensorSpec, shapes, dtypes)
    return [
        list(sizes), list(ops), [texts.place(role) for role in roles], [texts.place(category) for category in
        categories], [texts.place(name) for name in names], [tensors.place((spec,)) for spec in specs],
        *([list(streams)] if any(streams) else []),
    ]  # fmt: skip
