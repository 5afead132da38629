"""`Trace` as one compressed JSON file: tables of strings and shapes, and columns of numbers. Written whole or not at all."""

from __future__ import annotations

import gzip
import json
import os
import tempfile
import zlib
from array import array
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from memgraph.errors import MemgraphError, TraceError, UsageError
from memgraph.trace import SCHEMA, Buffer, Category, Events, Op, Phase, Role, TensorSpec, Trace

_COMPRESSION = 6
_CATEGORIES = tuple(Category)
_ROLES = tuple(Role)


def save(trace: Trace, path: str | os.PathLike[str], *, force: bool = False) -> None:
    """Write a trace.

    Raises:
        UsageError: the file exists and `force` is not given.
        MemgraphError: it cannot be written.
    """
    write_file(path, gzip.compress(json.dumps(_to_json(trace), separators=(",", ":")).encode(), _COMPRESSION, mtime=0), force)


def load(path: str | os.PathLike[str]) -> Trace:
    """Read a trace.

    Raises:
        TraceError: there is no such file, it is not a trace, it is damaged, or it is of a newer version.
    """
    try:
        data = json.loads(gzip.decompress(Path(path).read_bytes()))
    except FileNotFoundError:
        raise TraceError(f"{path} does not exist") from None
    except (OSError, EOFError, zlib.error, ValueError, RecursionError) as error:
        raise TraceError(f"{path} is not a memgraph trace, or is damaged: {error}") from error
    if not isinstance(data, dict) or not isinstance(data.get("schema"), int):
        raise TraceError(f"{path} is not a memgraph trace")
    if data["schema"] > SCHEMA:
        raise TraceError(f"{path} was written by a newer memgraph (schema {data['schema']}, this one reads {SCHEMA}): update memgraph")
    try:
        trace = _from_json(data)
        trace.self_check()
    except TraceError as error:
        raise TraceError(f"{path} contradicts itself: {error}") from error
    except (KeyError, IndexError, TypeError, ValueError, OverflowError, AttributeError) as error:
        raise TraceError(f"{path} is not a memgraph trace, or is damaged: {error!r}") from error
    return trace


def write_file(path: str | os.PathLike[str], content: bytes, force: bool) -> None:
    """Write `content` through a temporary file beside the target, so that it is there whole or not at all.

    Raises:
        UsageError: the file exists and `force` is not given.
        MemgraphError: it cannot be written.
    """
    target = Path(path)
    if target.exists() and not force:
        raise UsageError(f"{target} exists: choose another name, or give --force to overwrite it")
    try:
        descriptor, name = tempfile.mkstemp(dir=target.parent, prefix=f".{target.name}.")
        try:
            with os.fdopen(descriptor, "wb") as file:
                file.write(content)
            os.replace(name, target)
        except BaseException:
            os.unlink(name)
            raise
    except OSError as error:
        raise MemgraphError(f"cannot write {target}: {error.strerror or error}") from error


class _Table:
    """Distinct values, and each value's place among them."""

    def __init__(self) -> None:
        self.values: list[Any] = []
        self._places: dict[Any, int] = {}

    def place(self, value: Any) -> int:
        if value not in self._places:
            self._places[value] = len(self.values)
            self.values.append(value)
        return self._places[value]


def _to_json(trace: Trace) -> dict[str, Any]:
    strings, specs = _Table(), _Table()
    ops = [
        [
            strings.place(op.name), op.phase, strings.place(op.module), strings.place(op.source),
            [specs.place(spec) for spec in op.inputs], [specs.place(spec) for spec in op.outputs], op.forward,
        ]
        for op in trace.ops
    ]  # fmt: skip
    buffers = [
        [
            buffer.size, buffer.op, _ROLES.index(buffer.role), _CATEGORIES.index(buffer.category),
            strings.place(buffer.name), specs.place(TensorSpec(buffer.shape, buffer.dtype)),
        ]
        for buffer in trace.buffers
    ]  # fmt: skip
    return {
        "schema": trace.schema, "origin": trace.origin, "gpu": trace.gpu, "memory": trace.memory, "torch": trace.torch,
        "settings": dict(trace.settings), "phases": [list(phase) for phase in trace.phases],
        "assumptions": list(trace.assumptions), "unknown_ops": list(trace.unknown_ops), "strings": strings.values,
        "specs": [[list(spec.shape), spec.dtype] for spec in specs.values], "ops": _columns(ops, 7),
        "buffers": _columns(buffers, 6), "events": [column.tolist() for column in trace.events.columns],
    }  # fmt: skip


def _columns(rows: Iterable[Sequence[Any]], width: int) -> list[list[Any]]:
    return [list(column) for column in zip(*rows, strict=True)] or [[] for _ in range(width)]


def _from_json(data: dict[str, Any]) -> Trace:
    strings = [_text(value) for value in data["strings"]]
    specs = [TensorSpec(tuple(map(int, shape)), _text(dtype)) for shape, dtype in data["specs"]]
    ops = tuple(
        Op(
            strings[name], int(phase), strings[module], strings[source], tuple([specs[i] for i in inputs]),
            tuple([specs[i] for i in outputs]), int(forward),
        )
        for name, phase, module, source, inputs, outputs, forward in zip(*data["ops"], strict=True)
    )  # fmt: skip
    buffers = tuple(
        Buffer(int(size), int(op), _ROLES[role], _CATEGORIES[category], strings[name], *specs[spec])
        for size, op, role, category, name, spec in zip(*data["buffers"], strict=True)
    )
    return Trace(
        origin=_text(data["origin"]), gpu=_text(data["gpu"]), memory=int(data["memory"]), torch=_text(data["torch"]),
        settings=dict(data["settings"]), ops=ops, buffers=buffers, events=_events(data["events"]),
        phases=tuple(Phase(_text(name), int(step), int(start), int(stop)) for name, step, start, stop in data["phases"]),
        assumptions=tuple(map(_text, data["assumptions"])), unknown_ops=tuple(map(_text, data["unknown_ops"])),
        schema=data["schema"],
    )  # fmt: skip


def _events(columns: Sequence[Sequence[int]]) -> Events:
    if len(columns) != 5 or len({len(column) for column in columns}) != 1:
        raise TraceError("its events are not five columns of one length")
    return Events(columns=[array(code, column) for code, column in zip("bqqqq", columns, strict=True)])


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError(f"{value!r} is not a text")
    return value
