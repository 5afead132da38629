"""Memory snapshots of PyTorch (`torch.cuda.memory._dump_snapshot`) as measured traces.

A snapshot is a pickle. It is read as plain data: whatever would import or call something is refused, so a file from
somebody else cannot run code. Large ones are read as a stream that keeps events, not the dictionaries they came in.
"""

from __future__ import annotations

import pickle
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple, NoReturn

from memgraph import trace_file
from memgraph.errors import TraceError
from memgraph.trace import Action, Buffer, Event, Events, Op, Phase, Trace

STREAMED = 64 * 2**20
"""Bytes from which on a file is read as a stream, ten times slower and in a fraction of the memory."""

_PICKLE = b"\x80"
_WRONG = (KeyError, IndexError, TypeError, ValueError, AttributeError, EOFError, OverflowError, RecursionError,
          MemoryError, AssertionError, UnicodeError, ImportError)  # fmt: skip
"""What goes wrong in a pickle that is not what it should be."""


def load(path: Path) -> Trace:
    """Read a trace, whatever it is kept in: a file of memgraph, or a snapshot of PyTorch.

    Raises:
        TraceError: it is neither, it is damaged, or it is not plain data.
    """
    try:
        with path.open("rb") as file:
            start = file.read(1)
    except OSError as error:
        raise TraceError(f"cannot read {path}: {error.strerror or error}") from error
    return load_snapshot(path) if start == _PICKLE else trace_file.load(path)


def load_snapshot(path: Path) -> Trace:
    """Read a snapshot of PyTorch, of the device on which most happened.

    Raises:
        TraceError: it is not plain data, damaged, or no snapshot.
    """
    try:
        data = _unpickled(path)
        traces = data["device_traces"]
        device = max(range(len(traces)), key=lambda index: len(traces[index]))
        segments = [segment for segment in data.get("segments", ()) if segment.get("device", 0) == device]
        trace = _trace(path, read(traces[device], segments))
        trace.self_check()
    except TraceError as error:
        raise TraceError(f"{path}: {error}") from error
    except pickle.UnpicklingError as error:
        raise TraceError(f"{path} is not a snapshot of PyTorch: {error}") from error
    except _WRONG as error:
        raise TraceError(f"{path} is not a snapshot of PyTorch: {type(error).__name__} {str(error)[:100]}") from error
    return trace


def _trace(path: Path, history: ReadHistory) -> Trace:
    reserved = most = 0
    for event in history.events:
        if event.action is Action.SEGMENT_ALLOC:
            reserved += event.size
        elif event.action is Action.SEGMENT_FREE:
            reserved -= event.size
        most = max(most, reserved)
    before = history.before
    phases = (Phase("before", 0, 0, before),) * bool(before) + (Phase("recorded", 1, before, len(history.events)),)
    ops = tuple(op._replace(phase=len(phases) - 1) for op in history.ops)
    return Trace(
        origin="measured", gpu="unknown", memory=most, torch="unknown", settings={"snapshot": path.name}, ops=ops,
        buffers=history.buffers, events=history.events, phases=phases, assumptions=history.notes,
    )  # fmt: skip


# Plain data only.


def _refuse(_self: Any, module: str, name: str) -> NoReturn:
    raise pickle.UnpicklingError(f"it asks for {module}.{name}, and a snapshot is plain data: it will not be run")


class _Plain(pickle.Unpickler):
    """The quick one, for what fits into memory whole."""

    find_class = _refuse
    persistent_load = None  # type: ignore[assignment]


class _Streamed(pickle._Unpickler):  # type: ignore[name-defined,misc]  # the same in Python, whose steps can change
    """Each event's dictionary is emptied as soon as it is whole and in its list."""

    find_class = _refuse


def _load_appends(self: Any) -> None:
    items = self.pop_mark()
    self.stack[-1].extend(map(_shortened, items))


def _load_append(self: Any) -> None:
    item = self.stack.pop()
    self.stack[-1].append(_shortened(item))


_Streamed.dispatch = {
    **pickle._Unpickler.dispatch, pickle.APPENDS[0]: _load_appends, pickle.APPEND[0]: _load_append,  # type: ignore[attr-defined]
}  # fmt: skip


def _shortened(item: Any) -> Any:
    if not isinstance(item, dict) or "action" not in item:
        return item
    entry = _entry(item)
    item.clear()  # the pickle's own table still holds it
    return entry


def _unpickled(path: Path) -> Any:
    with path.open("rb") as file:
        reader: Callable[[BinaryIO], Any] = _Streamed if path.stat().st_size >= STREAMED else _Plain
        return reader(file).load()


# Entries to events.


class Entry(NamedTuple):
    """One entry of torch's history."""

    action: str
    address: int
    size: int
    place: tuple[str, str] = ("", "")
    """The innermost function that is not torch's own, and its line."""


class ReadHistory(NamedTuple):
    """Entries as a trace has them."""

    buffers: tuple[Buffer, ...]
    events: Events
    ops: tuple[Op, ...]
    before: int
    """Events at the front for what was there before the recording began."""
    notes: tuple[str, ...]


def _place(frames: Any) -> tuple[str, str]:
    """The innermost frame of a user's file."""
    for frame in frames if isinstance(frames, (list, tuple)) else ():
        name = str(frame.get("filename", ""))
        if name.endswith(".py") and "/torch/" not in name:
            return str(frame.get("name", "")), f"{'/'.join(name.split('/')[-2:])}:{frame.get('line', 0)}"
    return "", ""


def _entry(entry: Any) -> Entry:
    if isinstance(entry, Entry):
        return entry
    address = int(entry.get("addr", 0))  # what was refused has none
    return Entry(str(entry["action"]), address, int(entry["size"]), _place(entry.get("frames", ())))


def read(entries: Iterable[Any], segments: Sequence[Mapping[str, Any]] = ()) -> ReadHistory:
    """torch's history as buffers and events. A block is taken to be its request rounded up to 512 bytes.

    Args:
        entries: of one device, as torch has them.
        segments: those at the end. With them, what was there before the recording began is known too, and comes first;
            blocks that nobody saw allocated had sizes that are multiples of 512.
    """
    reader = _Reader()
    for entry in entries:
        reader.follow(_entry(entry))
    return reader.finished(segments)


class _Reader:
    """Follows the entries of one device."""

    def __init__(self) -> None:
        self.buffers: list[Buffer] = []
        self.events = Events()
        self.ops: dict[tuple[str, str], int] = {}
        self._live: dict[int, int] = {}
        self._segments: dict[int, int] = {}
        self._old_blocks: list[tuple[int, int, int]] = []
        """Address, size, and the place of the event at which a block died that was there before."""
        self._old_segments: list[tuple[int, int]] = []

    def follow(self, entry: Entry) -> None:
        action, address, size, place = entry
        if action == "alloc":
            op = self._op(place)
            self._live[address] = len(self.buffers)
            self.buffers.append(Buffer(size, op))
            self.events.append(Event(Action.ALLOC, self._live[address], op, address, rounded(size)))
        elif action == "free_completed" and address in self._live:
            buffer = self._live.pop(address)
            self.events.append(Event(Action.FREE, buffer, -1, address, rounded(self.buffers[buffer].size)))
        elif action == "free_completed":
            self._old_blocks.append((address, size, len(self.events)))
            self.events.append(Event(Action.FREE, -1, -1, address, rounded(size)))  # its buffer is named at the end
        elif action in ("segment_alloc", "segment_map"):
            self._segments[address] = size
            self.events.append(Event(Action.SEGMENT_ALLOC, -1, -1, address, size))
        elif action in ("segment_free", "segment_unmap"):
            if self._segments.pop(address, None) is None:
                self._old_segments.append((address, size))
            self.events.append(Event(Action.SEGMENT_FREE, -1, -1, address, size))
        elif action == "oom":
            self.events.append(Event(Action.OUT_OF_MEMORY, -1, -1, 0, max(1, size)))

    def _op(self, place: tuple[str, str]) -> int:
        return self.ops.setdefault(place, len(self.ops)) if any(place) else -1

    def finished(self, segments: Sequence[Mapping[str, Any]]) -> ReadHistory:
        """All of it, with what was there before at the front."""
        ops = tuple(Op(name or "outside any function", 0, "", line) for name, line in self.ops)
        if not segments and not self._old_blocks and not self._old_segments:
            return ReadHistory(tuple(self.buffers), self.events, ops, 0, ())
        stayed = [
            (int(block["address"]), int(block["requested_size"] or block["size"]))
            for segment in segments
            for block in segment["blocks"]
            if str(block["state"]).startswith("active") and int(block["address"]) not in self._live
        ]
        old = [(int(s["address"]), int(s["total_size"])) for s in segments if int(s["address"]) not in self._segments]
        return self._with_before(ops, [*self._old_segments, *old], stayed)

    def _with_before(
        self, ops: tuple[Op, ...], segments: Sequence[tuple[int, int]], stayed: Sequence[tuple[int, int]]
    ) -> ReadHistory:
        front = Events()
        first: list[Buffer] = []
        for address, size in segments:
            front.append(Event(Action.SEGMENT_ALLOC, -1, -1, address, size))
        for address, size in [(address, size) for address, size, _ in self._old_blocks] + list(stayed):
            front.append(Event(Action.ALLOC, len(first), -1, address, rounded(size)))
            first.append(Buffer(size, -1))
        dying = {place: index for index, (_, _, place) in enumerate(self._old_blocks)}
        events = Events(front)
        for place, event in enumerate(self.events):
            buffer = dying.get(place, event.buffer + len(first) if event.buffer >= 0 else -1)
            events.append(event._replace(buffer=buffer))
        held = (f"{len(first):,} buffers were there before the recording began",) * bool(first)
        return ReadHistory((*first, *self.buffers), events, ops, len(front), held)


def rounded(size: int) -> int:
    """To 512 bytes, as the caching allocator rounds a request."""
    return max(512, (size + 511) // 512 * 512)
