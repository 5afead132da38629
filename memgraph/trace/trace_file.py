"""`Trace` as one gzip-compressed JSON file: tables of distinct texts and tensors, columns of numbers. Written whole or
not at all, and believed only after its conservation laws were checked."""

from __future__ import annotations

import gzip
import json
import os
import tempfile
import zlib
from array import array
from collections.abc import Iterable, Iterator, Sequence
from itertools import starmap
from pathlib import Path
from typing import Any, Generic, TypeVar

from memgraph.errors import MemgraphError, TraceError, UsageError
from memgraph.trace import SCHEMA, Buffer, Category, Compilation, Events, Op, Phase, Role, Saved, TensorSpec, Trace

Value = TypeVar("Value")
Kind = TypeVar("Kind", Role, Category)
StrPath = str | os.PathLike[str]

_COMPRESSION = 6
"""Half the time of the highest, and 1 % larger."""

_LARGEST = 2**30
"""Bytes of text that are read: some 14 million events. More is no trace but a file made to fill the memory."""

_CHUNK = 2**20

_WRONG = (KeyError, IndexError, TypeError, ValueError, OverflowError, AttributeError, RecursionError)
"""What goes wrong in data that is not what it should be."""


def save(trace: Trace, path: StrPath, *, force: bool = False) -> None:
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


def load(path: StrPath) -> Trace:
    """Read a trace.

    Raises:
        TraceError: there is no such file, it is not a trace, it is damaged, or it is of a newer version.
    """
    data = _read(path)
    try:
        _check_schema(data["schema"])
        trace = _decode(data)
        trace.self_check()
    except TraceError as error:
        raise TraceError(f"{path}: {error}") from error
    except _WRONG as error:
        reason = f"{type(error).__name__} {_brief(error)}"
        raise TraceError(f"{path} is not a memgraph trace: {reason}") from error
    return trace


def write_file(path: StrPath, content: bytes, *, force: bool = False) -> None:
    """Write `content` through a temporary file beside the target, so that it is there whole or not at all.

    Raises:
        UsageError: the file exists and `force` is not given.
        MemgraphError: it cannot be written.
    """
    check_free(path, force=force)
    target = Path(path)
    try:
        with tempfile.TemporaryDirectory(dir=target.parent, prefix=".memgraph-") as folder:
            part = Path(folder) / target.name
            part.write_bytes(content)
            part.replace(target)
    except OSError as error:
        raise MemgraphError(f"cannot write {target}: {error.strerror or error}") from error


def check_free(path: StrPath, *, force: bool = False) -> None:
    """Whether `path` may be written: to ask before the work is done, not after.

    Raises:
        UsageError: the file exists and `force` is not given, it is no plain file, or its folder does not exist.
    """
    target = Path(path)
    if _there(target) and not target.is_file():
        raise UsageError(f"{target} is not a plain file: choose another name")
    if _there(target) and not force:
        raise UsageError(f"{target} exists: choose another name, or overwrite it with --force (in Python force=True)")
    if not target.parent.is_dir():
        raise UsageError(f"{target} cannot be written: there is no folder {target.parent}")


def _there(target: Path) -> bool:
    try:
        return target.exists()
    except OSError as error:  # the name is too long, or a folder on the way may not be searched
        raise UsageError(f"{target} cannot be written: {error.strerror}") from error


class _Table(Generic[Value]):
    """Distinct values, and each value's place among them."""

    def __init__(self) -> None:
        self._places: dict[Value, int] = {}

    def place(self, value: Value) -> int:
        return self._places.setdefault(value, len(self._places))

    def __iter__(self) -> Iterator[Value]:
        return iter(self._places)


def _encode(trace: Trace) -> dict[str, Any]:
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
    sizes, ops, roles, categories, names, shapes, dtypes = zip(*buffers, strict=True) if buffers else [()] * 7
    specs = map(TensorSpec, shapes, dtypes)
    return [
        list(sizes), list(ops), [texts.place(role) for role in roles], [texts.place(category) for category in
        categories], [texts.place(name) for name in names], [tensors.place((spec,)) for spec in specs],
    ]  # fmt: skip


def _read(path: StrPath) -> dict[str, Any]:
    try:
        data = json.loads(_unpack(path))
    except gzip.BadGzipFile as error:
        raise TraceError(
            f"{path} is not a memgraph trace, or damaged: {error}; `memgraph analyze -o FILE` writes one"
        ) from error
    except OSError as error:
        raise TraceError(f"cannot read {path}: {error.strerror or error}") from None
    except (EOFError, zlib.error) as error:
        raise TraceError(f"{path} is cut short or damaged: {error}") from error
    except (ValueError, RecursionError) as error:
        raise TraceError(f"{path} is not a memgraph trace: {_brief(error)}") from error
    if not isinstance(data, dict):
        raise TraceError(f"{path} is not a memgraph trace: it holds a {type(data).__name__}")
    return data


def _unpack(path: StrPath) -> bytearray:
    text = bytearray()
    with gzip.open(path) as stream:
        while chunk := stream.read(_CHUNK):
            text += chunk
            if len(text) > _LARGEST:
                raise TraceError(f"{path} is not a memgraph trace: it unpacks to more than {_LARGEST} bytes")
    return text


def _brief(error: Exception) -> str:
    """What went wrong, without all of the data that it quotes."""
    text = str(error)
    return text if len(text) <= 100 else f"{text[:60]}...{text[-37:]}"


def _check_schema(schema: Any) -> None:
    if type(schema) is not int or schema < 1:
        raise TypeError("its schema is not a number from 1 on")
    if schema > SCHEMA:
        raise TraceError(f"written by a newer memgraph (schema {schema}, this one reads {SCHEMA}): update memgraph")


def _decode(data: dict[str, Any]) -> Trace:
    texts = _texts(data["texts"])
    tensors = [
        tuple([TensorSpec(tuple(_signed(shape)), _text(dtype)) for shape, dtype in specs]) for specs in data["tensors"]
    ]
    return Trace(
        origin=_text(data["origin"]), gpu=_text(data["gpu"]), memory=_signed([data["memory"]])[0],
        torch=_text(data["torch"]), settings=_mapping(data["settings"]), ops=_ops(data, texts, tensors),
        buffers=_buffers(data["buffers"], texts, tensors), events=_events(data["events"]),
        phases=tuple(Phase(_text(name), *_signed(numbers)) for name, *numbers in data["phases"]),
        assumptions=_texts(data["assumptions"]), unknown_ops=_texts(data["unknown_ops"]),
        compilation=_compilation(data["compilation"]) if "compilation" in data else None,
    )  # fmt: skip


def _compilation(columns: Sequence[Any]) -> Compilation:
    graphs, breaks, saved, recomputed, pools = columns
    rows = tuple(
        Saved(_text(op), _text(module), _text(source), tuple(_signed(shape)), _text(dtype), *_signed([size, count]))
        for op, module, source, shape, dtype, size, count in saved
    )
    again = tuple((_text(op), _signed([count])[0]) for op, count in recomputed)
    return Compilation(_signed([graphs])[0], _texts(breaks), rows, again, _signed([pools])[0])


def _ops(data: dict[str, Any], texts: Sequence[str], tensors: Sequence[tuple[TensorSpec, ...]]) -> tuple[Op, ...]:
    names, phases, modules, sources, inputs, outputs, forwards, *more = data["ops"]
    rows = zip(
        _pick(texts, names), _signed(phases), _pick(texts, modules), _pick(texts, sources), _pick(tensors, inputs),
        _pick(tensors, outputs), _signed(forwards), _reads(data, more, len(names)), strict=True,
    )  # fmt: skip
    return tuple(starmap(Op, rows))


def _reads(data: dict[str, Any], columns: Sequence[Sequence[int]], count: int) -> list[tuple[int, ...]]:
    """What each op reads; files of memgraph 0.1.0's first days do not say."""
    if not columns:
        return [()] * count
    table = [tuple(_signed(distances)) for distances in data["distances"]]
    (column,) = columns
    return [tuple([index - back for back in backs]) for index, backs in enumerate(_pick(table, column))]


def _buffers(
    columns: Sequence[Any], texts: Sequence[str], tensors: Sequence[tuple[TensorSpec, ...]]
) -> tuple[Buffer, ...]:
    sizes, ops, roles, categories, names, specs = columns
    singles = {place: tensors[place] for place in set(_indices(specs))}
    shapes, dtypes = ({place: spec[part] for place, (spec,) in singles.items()} for part in (0, 1))
    rows = zip(
        _indices(sizes), _signed(ops), _kinds(Role, texts, roles), _kinds(Category, texts, categories),
        _pick(texts, names), map(shapes.__getitem__, specs), map(dtypes.__getitem__, specs), strict=True,
    )  # fmt: skip
    return tuple(starmap(Buffer, rows))


def _kinds(kind: type[Kind], texts: Sequence[str], places: Sequence[int]) -> Iterator[Kind]:
    """An enum's members by their texts: each is looked up once, not for every buffer."""
    known = {place: kind(texts[place]) for place in set(_indices(places))}
    return map(known.__getitem__, places)


def _events(columns: Sequence[Sequence[int]]) -> Events:
    if len({len(column) for column in columns}) != 1:
        raise ValueError("its events are not columns of one length")
    return Events(columns=[array(code, column) for code, column in zip("bqqqq", columns, strict=True)])


def _pick(table: Sequence[Value], places: Iterable[int]) -> list[Value]:
    return [table[place] for place in _indices(places)]


def _indices(values: Iterable[int]) -> array[int]:
    """Whole numbers from 0 on; an array refuses anything else."""
    return array("Q", values)


def _signed(values: Iterable[int]) -> array[int]:
    return array("q", values)


def _texts(values: Iterable[Any]) -> tuple[str, ...]:
    return tuple(map(_text, values))


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError(f"{value!r} is not a text")
    return value


def _mapping(value: Any) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise TypeError(f"{value!r} is not a mapping")
    return value
