"""The log of `hook.c`, read into events. Needs no GPU: a log made elsewhere, or left by a crash, can be read here."""

from __future__ import annotations

import struct
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

from memgraph.errors import TraceError
from memgraph.trace import Action, Buffer, Event, Events

_HEADER = struct.Struct("<8sQQQq24x")
_RECORD = struct.Struct("<QqQQiIQ")
_MAGIC, _VERSION = b"memghook", 1
_ALLOC, _FREE, _MARK, _OUT_OF_MEMORY = 1, 2, 3, 4


class Record(NamedTuple):
    """One thing that PyTorch asked of the hook, or a mark."""

    kind: int
    address: int
    """Of a mark its number."""
    size: int
    """Bytes as they were asked for."""
    stream: int
    device: int
    time: int
    """Nanoseconds."""


class Log(NamedTuple):
    """What is left of a log."""

    records: tuple[Record, ...]
    dropped: int
    """Records that were overwritten because the ring was full; they were the oldest."""
    limit: int
    """Bytes that could be requested at once; 0 for no limit."""


class HookRun(NamedTuple):
    """A log as a trace has it."""

    buffers: tuple[Buffer, ...]
    events: Events
    marks: Mapping[int, int]
    """Where each mark stands: the event that followed it."""


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
    magic, version, capacity, written, limit = _HEADER.unpack_from(content)
    if magic != _MAGIC or version != _VERSION:
        raise TraceError(f"{path} is no log of memgraph's hook")
    if capacity * _RECORD.size + _HEADER.size > len(content):
        raise TraceError(f"{path} is cut off: it should hold {capacity:,} records")
    records = tuple(_whole(content, capacity, written))
    return Log(records, max(0, written - capacity), limit)


def _whole(content: bytes, capacity: int, written: int) -> Iterator[Record]:
    """From the oldest to the newest. A record that a crash left half-written has no sequence number, or an old one."""
    for number in range(max(0, written - capacity), written):
        place = _HEADER.size + number % capacity * _RECORD.size
        address, size, stream, time, device, kind, sequence = _RECORD.unpack_from(content, place)
        if sequence == number + 1 and kind in (_ALLOC, _FREE, _MARK, _OUT_OF_MEMORY):
            yield Record(kind, address, size, stream, device, time)


def to_run(log: Log, device: int) -> HookRun:
    """One device's allocations as buffers and events. A block counts as what was asked for, so allocated bytes are
    requested ones, and a segment is taken whenever the requested bytes reach a new height."""
    buffers: list[Buffer] = []
    events = Events()
    live: dict[int, int] = {}
    marks: dict[int, int] = {}
    held = reserved = 0
    for record in log.records:
        if record.kind == _MARK:
            marks[record.address] = len(events)
        elif record.device != device:
            continue
        elif record.kind == _ALLOC and record.address not in live and record.size > 0:
            held += record.size
            if held > reserved:
                events.append(Event(Action.SEGMENT_ALLOC, -1, -1, 0, held - reserved))
                reserved = held
            live[record.address] = len(buffers)
            buffers.append(Buffer(record.size, -1))
            events.append(Event(Action.ALLOC, live[record.address], -1, record.address, record.size))
        elif record.kind == _FREE and record.address in live:
            buffer = live.pop(record.address)
            held -= buffers[buffer].size
            events.append(Event(Action.FREE, buffer, -1, record.address, buffers[buffer].size))
        elif record.kind == _OUT_OF_MEMORY:
            events.append(Event(Action.OUT_OF_MEMORY, -1, -1, 0, max(1, record.size)))
    return HookRun(tuple(buffers), events, marks)
