"""The log of the allocator hook (`capture/real/hook.c`) as a measured `Trace`. Needs no GPU: a log made elsewhere, or
left by a process that crashed or was killed, can be read here.

A log is a header, a ring of records, and behind it lines of JSON: the first says what was recorded on what, each
further one what a mark means. All of it is there as soon as it happened.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from memgraph.errors import TraceError
from memgraph.trace import Action, Buffer, Event, Events, Op, Phase, Trace

MAGIC = b"memghook"
_HEADER = struct.Struct("<8sQQQqqq8x")
_RECORD = struct.Struct("<QqQQiIQ")
_VERSION = 2
_ALLOC, _FREE, _MARK, _OUT_OF_MEMORY = 1, 2, 3, 4
_OPS_MARKED = (
    "ops were marked, and so gradients that meet took allocations of their own: autograd adds them in place only where "
    "no dispatch mode looks on"
)
"""`accumulate` in torch/csrc/autograd/input_buffer.cpp, torch 2.11 to 2.15."""
_LARGEST = 2**40
"""Bytes that an event may speak of; no card has as many."""


class Record(NamedTuple):
    """One thing that PyTorch asked of the hook, or a mark."""

    kind: int
    address: int
    """Of a mark the line that says what it means."""
    size: int
    """Bytes as they were asked for."""
    stream: int
    device: int
    time: int
    """Nanoseconds."""


class Log(NamedTuple):
    """What is left of a log."""

    content: bytes
    capacity: int
    written: int
    """Records that were begun."""
    limit: int
    """Bytes that could be requested at once; 0 for no limit."""
    requested: int
    """Bytes in the end."""
    peak: int
    """Bytes at most, also if the records that would say so were overwritten."""
    lines: Sequence[Mapping[str, Any]]

    @property
    def dropped(self) -> int:
        """Records that were overwritten because the ring was full; they were the oldest."""
        return max(0, self.written - self.capacity)

    def records(self) -> Iterator[Record]:
        """From the oldest to the newest. A record that a crash left half-written has no sequence number, or an old
        one."""
        for number in range(self.dropped, self.written):
            place = _HEADER.size + number % self.capacity * _RECORD.size
            address, size, stream, time, device, kind, sequence = _RECORD.unpack_from(self.content, place)
            if sequence == number + 1 and _ALLOC <= kind <= _OUT_OF_MEMORY and 0 <= size < _LARGEST and address < 2**63:
                yield Record(kind, address, size, stream, device, time)

    def line(self, number: int) -> Mapping[str, Any]:
        """A line of text; empty if it is lost."""
        return self.lines[number] if 0 <= number < len(self.lines) else {}


def read(path: Path) -> Log:
    """Read a log.

    Raises:
        TraceError: it is not there, or is no log of the hook.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise TraceError(f"cannot read {path}: {error.strerror or error}") from error
    if len(content) < _HEADER.size:
        raise TraceError(f"{path} is no log of memgraph's hook: it is too short")
    magic, version, capacity, written, limit, requested, peak = _HEADER.unpack_from(content)
    if magic != MAGIC or version != _VERSION:
        raise TraceError(f"{path} is no log of memgraph's hook, or of another version of memgraph")
    end = capacity * _RECORD.size + _HEADER.size
    if not capacity or end > len(content) or written > 2**62:
        raise TraceError(f"{path} is cut off or damaged: it should hold {capacity:,} records")
    return Log(content, capacity, written, limit, requested, peak, tuple(_lines(content[end:])))


def _lines(text: bytes) -> Iterator[Mapping[str, Any]]:
    """As far as they are whole."""
    for line in text.split(b"\n")[:-1]:
        try:
            found = json.loads(line)
        except (ValueError, RecursionError):
            return
        if not isinstance(found, dict):
            return
        yield found


def load(path: Path) -> Trace:
    """Read a log as a trace.

    Raises:
        TraceError: it is not there, no log of the hook, or contradicts itself.
    """
    log = read(path)
    trace = to_trace(log)
    try:
        trace.self_check()
    except TraceError as error:
        raise TraceError(f"{path}: {error}") from error
    return trace


def to_trace(log: Log) -> Trace:
    """One device's allocations. A block counts as what was asked for, so allocated bytes are requested ones, and a
    segment is taken whenever they reach a new height. Buffers of which only the end was logged are there from the
    start."""
    about = log.line(0)
    device = _number(about.get("device"))
    reader = _Reader(log, device)
    for record in log.records():
        reader.follow(record)
    run = reader.finished()
    settings = about.get("settings")
    return Trace(
        origin="measured", gpu=str(about.get("gpu", "unknown")), memory=log.limit or _number(about.get("memory")),
        torch=str(about.get("torch", "unknown")),
        settings={**(settings if isinstance(settings, dict) else {}), "via": "hook"}, ops=run.ops, buffers=run.buffers,
        events=run.events, phases=run.phases, assumptions=_lost(log, device),
    )  # fmt: skip


def _number(value: Any) -> int:
    return value if isinstance(value, int) and 0 <= value < 2**62 else 0


def _lost(log: Log, device: int) -> tuple[str, ...]:
    others = sum(record.device != device and record.kind != _MARK for record in log.records())
    notes = []
    if log.dropped:
        notes.append(
            f"{log.dropped:,} of the oldest events did not fit into the log and are missing; in the whole run "
            f"{log.peak:,} bytes were requested at most"
        )
    if log.line(0).get("ops") is True:
        notes.append(_OPS_MARKED)
    if others:
        notes.append(f"{others:,} events of other devices are left out")
    return tuple(notes)


class _Run(NamedTuple):
    ops: tuple[Op, ...]
    buffers: tuple[Buffer, ...]
    events: Events
    phases: tuple[Phase, ...]


class _Reader:
    """Follows the records of one device."""

    def __init__(self, log: Log, device: int) -> None:
        self._log, self._device = log, device
        self._buffers: list[Buffer] = []
        self._ops: list[Op] = []
        self._phases: list[tuple[str, int, int]] = []
        self._live: dict[int, int] = {}
        self._streams = {0: 0}
        """Numbers of streams by their pointers, in the order in which they first allocated."""
        self._events = Events()
        self._held = self._reserved = 0
        self._first = self._first_phase()
        self._begin_with(self._before())

    def _begin_with(self, sizes: Sequence[tuple[int, int]]) -> None:
        if sizes:
            self._phases.append(("before", 0, 0))
        for address, size in sizes:
            self._alloc(address, size)
        if self._log.dropped and self._first:
            self._enter(self._first)

    def _before(self) -> list[tuple[int, int]]:
        """Address and size of what was there before the oldest record: what dies without having been born, and as one
        what never dies."""
        if not self._log.dropped:
            return []
        born: set[int] = set()
        found = []
        change, alone = 0, True
        for kind, address, size, _, device, _ in self._log.records():
            alone &= device == self._device or kind == _MARK
            if kind == _ALLOC:
                born.add(address)
                change += size
            elif kind == _FREE:
                change -= size
                if device == self._device and address not in born:
                    found.append((address, size))
                born.add(address)
        stayed = self._log.requested - change - sum(size for _, size in found)
        return [*found, (-1, stayed)] if alone and 0 < stayed < _LARGEST else found

    def _first_phase(self) -> Mapping[str, Any]:
        """The phase in which a log begins whose first mark was overwritten: the one before the first that is left."""
        phases = [number for number, line in enumerate(self._log.lines) if "phase" in line]
        marks = (record.address for record in self._log.records() if record.kind == _MARK)
        left = next((number for number in marks if "phase" in self._log.line(number)), len(self._log.lines))
        earlier = [number for number in phases if number < left]
        return self._log.line(earlier[-1]) if earlier else {}

    def follow(self, record: Record) -> None:
        kind, address, size, _, device, _ = record
        if kind == _MARK:
            self._mark(self._log.line(address))
        elif device != self._device:
            return
        elif kind == _ALLOC and address not in self._live and size:
            self._alloc(address, size, record.stream)
        elif kind == _FREE and address in self._live:
            buffer = self._live.pop(address)
            size = self._buffers[buffer].size
            self._held -= size
            self._events.append(Event(Action.FREE, buffer, self._op(), address, size))
        elif kind == _OUT_OF_MEMORY:
            self._events.append(Event(Action.OUT_OF_MEMORY, -1, self._op(), 0, max(1, size)))

    def _alloc(self, address: int, size: int, stream: int = 0) -> None:
        self._held += size
        if self._held > self._reserved:
            self._events.append(Event(Action.SEGMENT_ALLOC, -1, self._op(), 0, self._held - self._reserved))
            self._reserved = self._held
        self._live[address] = len(self._buffers)
        self._events.append(Event(Action.ALLOC, len(self._buffers), self._op(), max(0, address), size))
        number = self._streams.setdefault(stream, len(self._streams))
        self._buffers.append(Buffer(size, self._op(), stream=number))

    def _op(self) -> int:
        return len(self._ops) - 1

    def _mark(self, line: Mapping[str, Any]) -> None:
        if "phase" in line:
            self._enter(line)
        elif "op" in line and self._phases:
            module, source = (str(line.get(name, "")) for name in ("module", "source"))
            self._ops.append(Op(str(line["op"]), len(self._phases) - 1, module, source))

    def _enter(self, line: Mapping[str, Any]) -> None:
        self._phases.append((str(line["phase"]), _number(line.get("step")), len(self._events)))

    def finished(self) -> _Run:
        stops = [start for _, _, start in self._phases[1:]] + [len(self._events)]
        phases = tuple(Phase(*phase, stop) for phase, stop in zip(self._phases, stops, strict=bool(self._phases)))
        return _Run(tuple(self._ops), tuple(self._buffers), self._events, phases)
