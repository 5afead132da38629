"""Reads the files that `writing.py` writes. A file is believed only after its conservation laws were checked."""

from __future__ import annotations

import gzip
import json
import zlib
from array import array
from collections.abc import Iterable, Sequence
from itertools import starmap
from pathlib import Path
from typing import Any, TypeVar

from memgraph.errors import DAMAGED, TraceError
from memgraph.trace import columns
from memgraph.trace.output_file import StrPath
from memgraph.trace.parts import (
    SCHEMA,
    Buffer,
    Category,
    Compilation,
    Events,
    Fact,
    Held,
    Op,
    Phase,
    Role,
    Saved,
    TensorSpec,
)
from memgraph.trace.rows import Buffers, Ops
from memgraph.trace.trace import Trace

Value = TypeVar("Value")
Kind = TypeVar("Kind", Role, Category)

_LARGEST = 2**30
"""Bytes of text that are read: some 14 million events."""

_EXPANDS, _ANYHOW = 64, 2**20
"""How many times its own size a file may unpack to, and what any may. Traces unpack to seven to eleven times theirs;
more is a file made to fill the memory."""

_LONG = 2**24
"""Bytes of text whose columns are read apart."""

_CHUNK = 2**20


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
    except DAMAGED as error:
        reason = f"{type(error).__name__} {_brief(error)}"
        raise TraceError(f"{path} is not a memgraph trace: {reason}") from error
    return trace


def _read(path: StrPath) -> dict[str, Any]:
    try:
        data = _parse(_unpack(path))
    except gzip.BadGzipFile as error:
        raise TraceError(
            f"{path} is not a memgraph trace, or damaged: {error}; `memgraph analyze -o FILE` writes one"
        ) from error
    except OSError as error:
        raise TraceError(f"cannot read {path}: {error.strerror or error}") from None
    except (EOFError, zlib.error) as error:
        raise TraceError(f"{path} is cut short or damaged: {error}") from error
    except (ValueError, RecursionError, TypeError, OverflowError) as error:
        raise TraceError(f"{path} is not a memgraph trace: {_brief(error)}") from error
    if not isinstance(data, dict):
        raise TraceError(f"{path} is not a memgraph trace: it holds a {type(data).__name__}")
    return data


def _parse(text: bytearray) -> Any:
    """As `json.loads`; the columns of a text of many megabytes are arrays and never millions of objects."""
    if len(text) < _LONG:
        return json.loads(text)
    found: dict[str, list[array[int]]] = {}
    for key in ("ops", "buffers", "events"):
        apart = columns.taken_out(text, key)
        if apart is not None:
            found[key] = apart
    data = json.loads(text)
    text.clear()
    if not isinstance(data, dict) or not all(data.get(key) == [] for key in found):
        raise ValueError("its columns are not where they should be")
    return {**data, **found}


def _unpack(path: StrPath) -> bytearray:
    text = bytearray()
    largest = min(_LARGEST, _ANYHOW + _EXPANDS * Path(path).stat().st_size)
    with gzip.open(path) as stream:
        while chunk := stream.read(_CHUNK):
            text += chunk
            if len(text) > largest:
                raise TraceError(f"{path} is not a memgraph trace: it unpacks to more than {largest:,} bytes")
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
        held=tuple(starmap(_held, data.get("held", ()))), facts=tuple(starmap(_fact, data.get("facts", ()))),
        rounds=tuple(_signed(data.get("rounds", ()))),
        callers=tuple((_text(one), _text(other)) for one, other in data.get("callers", ())),
        late=tuple((buffer, event) for buffer, event in map(_signed, data.get("late", ()))),
    )  # fmt: skip


def _compilation(data: Sequence[Any]) -> Compilation:
    graphs, breaks, saved, recomputed, pools = data
    rows = tuple(
        Saved(_text(op), _text(module), _text(source), tuple(_signed(shape)), _text(dtype), *_signed([size, count]))
        for op, module, source, shape, dtype, size, count in saved
    )
    again = tuple((_text(op), _signed([count])[0]) for op, count in recomputed)
    return Compilation(_signed([graphs])[0], _texts(breaks), rows, again, _signed([pools])[0])


def _held(name: Any, kind: Any, graph: Any, source: Any, moment: Any, buffers: Any) -> Held:
    return Held(_text(name), _text(kind), bool(graph), _text(source), _signed([moment])[0], tuple(_indices(buffers)))


def _fact(kind: Any, source: Any, text: Any, buffers: Any) -> Fact:
    return Fact(_text(kind), _text(source), _text(text), tuple(_indices(buffers)))


def _ops(data: dict[str, Any], texts: Sequence[str], tensors: Sequence[tuple[TensorSpec, ...]]) -> Sequence[Op]:
    """What ops read is not in files of memgraph 0.1.0's first days."""
    names, phases, modules, sources, inputs, outputs, forwards, *reads = _of_one_length(data["ops"])
    distances = [tuple(_signed(each)) for each in data["distances"]] if reads else []
    found = Ops(
        _places(names, texts), _signed(phases), _places(modules, texts), _places(sources, texts),
        _places(inputs, tensors), _places(outputs, tensors), _signed(forwards),
        _places(reads[0], distances) if reads else None, texts, tensors, distances,
    )  # fmt: skip
    return found if len(found) >= columns.MANY else tuple(found)


def _buffers(data: Sequence[Any], texts: Sequence[str], tensors: Sequence[tuple[TensorSpec, ...]]) -> Sequence[Buffer]:
    """Before schema 2 there was one stream."""
    sizes, ops, roles, categories, names, specs, *more = _of_one_length(data)
    singles = {place: tensors[place] for place in _distinct(_places(specs, tensors))}
    shapes = {place: spec.shape for place, (spec,) in singles.items()}
    dtypes = {place: spec.dtype for place, (spec,) in singles.items()}
    found = Buffers(
        _indices(sizes), _signed(ops), _indices(roles), _indices(categories), _places(names, texts), _indices(specs),
        _indices(*more) if more else array("b", [0]) * len(sizes), texts, _kinds(Role, texts, roles),
        _kinds(Category, texts, categories), shapes, dtypes,
    )  # fmt: skip
    return found if len(found) >= columns.MANY else tuple(found)


def _kinds(kind: type[Kind], texts: Sequence[str], places: Sequence[int]) -> dict[int, Kind]:
    """An enum's members by the places of their texts."""
    return {place: kind(texts[place]) for place in _distinct(_indices(places))}


def _events(data: Sequence[Sequence[int]]) -> Events:
    return Events(columns=[_column(code, column) for code, column in zip("bqqqq", _of_one_length(data), strict=True)])


def _column(code: str, values: Sequence[int]) -> array[int]:
    return columns.as_code(values, code) if isinstance(values, array) else array(code, values)


def _of_one_length(data: Sequence[Sequence[int]]) -> Sequence[Sequence[int]]:
    if len({len(column) for column in data}) != 1:
        raise ValueError("its columns are not of one length")
    return data


def _distinct(places: array[int]) -> Iterable[int]:
    return columns.distinct(places) if len(places) >= columns.MANY else set(places)


def _places(values: Iterable[int], table: Sequence[object]) -> array[int]:
    """Places in a table."""
    found = _indices(values)
    if len(found) and _highest(found) >= len(table):
        raise IndexError("a place is not in its table")
    return found


def _highest(values: array[int]) -> int:
    return columns.highest(values) if len(values) >= columns.MANY else max(values)


def _indices(values: Iterable[int]) -> array[int]:
    """Whole numbers from 0 on; an array refuses anything else."""
    if isinstance(values, array):  # of those that were read apart
        if not columns.within(values, 0, 2**63):
            raise OverflowError("a number is below 0")
        return values
    return array("Q", values)


def _signed(values: Iterable[int]) -> array[int]:
    return values if isinstance(values, array) else array("q", values)


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
