"""Memory snapshots of PyTorch (`torch.cuda.memory._dump_snapshot`) as measured traces.

A snapshot is a pickle. It is read as plain data, so a file from somebody else cannot run code, and as a stream that
keeps events, not the dictionaries they came in: a gigabyte is common.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from memgraph.errors import TraceError
from memgraph.files import plain_pickle
from memgraph.files.plain_pickle import Forget, Items, PickleError
from memgraph.trace import Action, Buffer, Event, Events, Op, Phase, Trace

_WRONG = (LookupError, TypeError, ValueError, AttributeError, OverflowError, RecursionError)
"""What goes wrong in a snapshot that is not what it should be."""
_FRAMES = 100_000
"""Distinct frames that are kept in mind."""


def load_snapshot(path: Path) -> Trace:
    """Read a snapshot of PyTorch, of the device on which most happened.

    Raises:
        TraceError: it is not plain data, damaged, or no snapshot.
    """
    try:
        with path.open("rb") as file:
            data = plain_pickle.load(file, _take)
        trace = _trace(path, data)
        trace.self_check()
    except OSError as error:
        raise TraceError(f"cannot read {path}: {error.strerror or error}") from error
    except TraceError as error:
        raise TraceError(f"{path}: {error}") from error
    except PickleError as error:
        raise TraceError(f"{path} is not a snapshot of PyTorch: {error}") from error
    except _WRONG as error:
        raise TraceError(f"{path} is not a snapshot of PyTorch: {type(error).__name__} {str(error)[:100]}") from error
    return trace


def _trace(path: Path, data: Mapping[str, Any]) -> Trace:
    traces = [getattr(trace, "taken", None) or _History() for trace in data["device_traces"]]
    device = max(range(len(traces)), key=lambda index: len(traces[index]))
    segments = [segment for segment in data.get("segments", ()) if segment.get("device", 0) == device]
    history = traces[device].read(segments)
    reserved = most = 0
    for action, size in zip(history.events.columns[0], history.events.columns[4], strict=True):
        reserved += size * (int(action == Action.SEGMENT_ALLOC) - int(action == Action.SEGMENT_FREE))
        most = max(most, reserved)
    before = history.before
    phases = (Phase("before", 0, 0, before),) * bool(before) + (Phase("recorded", 1, before, len(history.events)),)
    ops = tuple(op._replace(phase=len(phases) - 1) for op in history.ops)
    return Trace(
        origin="measured", gpu="unknown", memory=most, torch="unknown", settings=_settings(path, data), ops=ops,
        buffers=history.buffers, events=history.events, phases=phases, assumptions=history.notes,
    )  # fmt: skip


def _settings(path: Path, data: Mapping[str, Any]) -> dict[str, Any]:
    """The allocator's own, where the snapshot has them."""
    told = data.get("allocator_settings", {}).get("PYTORCH_CUDA_ALLOC_CONF", "")
    return {"snapshot": path.name, **({"alloc_conf": str(told)} if told else {})}


def _take(items: Items, entry: dict[Any, Any], forget: Forget) -> bool:
    """An entry of torch's history, as soon as it is whole and in its list. Each has a list of frames of its own; its op
    stands for it."""
    if "action" not in entry:
        return False
    if not hasattr(items, "taken"):
        items.taken = _History()
    items.taken.follow(entry)
    frames = entry.get("frames")
    if type(frames) is Items:
        forget(frames, items.taken.op(frames))
    return True


# Entries to events.


class ReadHistory(NamedTuple):
    """Entries as a trace has them."""

    buffers: tuple[Buffer, ...]
    events: Events
    ops: tuple[Op, ...]
    before: int
    """Events at the front for what was there before the recording began."""
    notes: tuple[str, ...]


def read(entries: Iterable[Mapping[str, Any]], segments: Sequence[Mapping[str, Any]] = ()) -> ReadHistory:
    """torch's history as buffers and events. A block is taken to be its request rounded up to 512 bytes.

    Args:
        entries: of one device, as torch has them.
        segments: those at the end. With them, what was there before the recording began is known too, and comes first;
            blocks that nobody saw allocated had sizes that are multiples of 512.
    """
    history = _History()
    for entry in entries:
        history.follow(entry)
    return history.read(segments)


def _place(frame: Mapping[str, Any]) -> tuple[str, str] | None:
    """A frame of a user's file: its function, and its line."""
    name = str(frame.get("filename", ""))
    if not name.endswith(".py") or "/torch/" in name:
        return None
    return str(frame.get("name", "")), f"{'/'.join(name.split('/')[-2:])}:{frame.get('line', 0)}"


class _Old(NamedTuple):
    """A block that was there before the recording began."""

    address: int
    size: int
    stream: int


class _History:
    """Follows the entries of one device, and keeps them as columns."""

    def __init__(self) -> None:
        self.sizes, self.makers, self.streams = array("q"), array("q"), array("q")
        """Of each buffer its requested bytes, the op that made it, and the number of its stream."""
        self.events = Events()
        self.ops: dict[tuple[str, str], int] = {}
        self._frames: dict[int, tuple[Any, tuple[str, str] | None]] = {}
        self._live: dict[int, int] = {}
        self._segments: dict[int, int] = {}
        self._streams = {0: 0}
        """Numbers of streams by what torch calls them, in the order in which they first allocated."""
        self._waiting: set[int] = set()
        """Buffers that were freed and did not come back yet."""
        self._old_blocks: list[tuple[_Old, int]] = []
        """Blocks that were there before, each with the place of the event at which it died."""
        self._old_segments: list[tuple[int, int]] = []

    def __len__(self) -> int:
        return len(self.events)

    def follow(self, entry: Mapping[str, Any]) -> None:
        """What was refused has no address."""
        action, address, size = entry["action"], int(entry.get("addr", 0)), int(entry["size"])
        if action == "alloc":
            op = self.op(entry.get("frames"))
            self._live[address] = len(self.sizes)
            self.events.append(Event(Action.ALLOC, len(self.sizes), op, address, rounded(size)))
            self.sizes.append(size)
            self.makers.append(op)
            self.streams.append(self._stream(entry))
        elif action == "free_requested" and address in self._live:
            buffer = self._live[address]
            self._waiting.add(buffer)
            self.events.append(Event(Action.FREE_REQUESTED, buffer, -1, address, rounded(self.sizes[buffer])))
        elif action == "free_completed" and address in self._live:
            self._completed(self._live.pop(address), address)
        elif action == "free_completed":
            self._old_blocks.append((_Old(address, size, self._stream(entry)), len(self.events)))
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

    def _completed(self, buffer: int, address: int) -> None:
        """A block came back: right after it was freed, or when other streams were done with it. torch's first histories
        do not tell the two apart."""
        actions, buffers = self.events.columns[:2]
        waited = buffer in self._waiting
        self._waiting.discard(buffer)
        if waited and buffers[-1] == buffer:
            actions[-1] = Action.FREE
            return
        action = Action.FREE_COMPLETED if waited else Action.FREE
        self.events.append(Event(action, buffer, -1, address, rounded(self.sizes[buffer])))

    def _stream(self, told: Mapping[str, Any]) -> int:
        return self._streams.setdefault(int(told.get("stream", 0)), len(self._streams))

    def op(self, frames: Any) -> int:
        """The op that stands for the innermost frame of a user's file; -1 if there is none."""
        if isinstance(frames, int):
            return frames if -1 <= frames < len(self.ops) else -1
        for frame in frames or ():
            place = self._known(frame)
            if place is not None:
                return self.ops.setdefault(place, len(self.ops))
        return -1

    def _known(self, frame: Mapping[str, Any]) -> tuple[str, str] | None:
        """Stacks share their frames, so each is looked at once."""
        known = self._frames.get(id(frame))
        if known is None or known[0] is not frame:
            if len(self._frames) > _FRAMES:
                self._frames.clear()
            known = self._frames[id(frame)] = frame, _place(frame)
        return known[1]

    def read(self, segments: Sequence[Mapping[str, Any]]) -> ReadHistory:
        """All of it, with what was there before at the front."""
        ops = tuple(Op(name or "outside any function", 0, "", line) for name, line in self.ops)
        buffers = tuple(
            Buffer(size, maker, stream=stream)
            for size, maker, stream in zip(self.sizes, self.makers, self.streams, strict=True)
        )
        if not segments and not self._old_blocks and not self._old_segments:
            return ReadHistory(buffers, self.events, ops, 0, ())
        stayed = [
            _Old(int(block["address"]), int(block["requested_size"] or block["size"]), self._stream(segment))
            for segment in segments
            for block in segment["blocks"]
            if str(block["state"]).startswith("active") and int(block["address"]) not in self._live
        ]
        old = [(int(s["address"]), int(s["total_size"])) for s in segments if int(s["address"]) not in self._segments]
        return self._with_before(ops, buffers, [*self._old_segments, *old], stayed)

    def _with_before(
        self, ops: tuple[Op, ...], buffers: tuple[Buffer, ...], segments: Sequence[tuple[int, int]],
        stayed: Sequence[_Old],
    ) -> ReadHistory:  # fmt: skip
        """What was there before comes first among the events and last among the buffers."""
        front = Events(Event(Action.SEGMENT_ALLOC, -1, -1, address, size) for address, size in segments)
        blocks = [block for block, _ in self._old_blocks] + list(stayed)
        for number, (address, size, _) in enumerate(blocks, len(buffers)):
            front.append(Event(Action.ALLOC, number, -1, address, rounded(size)))
        for number, (_, place) in enumerate(self._old_blocks, len(buffers)):
            self.events.columns[1][place] = number
        events = Events(columns=[one + two for one, two in zip(front.columns, self.events.columns, strict=True)])
        held = (f"{len(blocks):,} buffers were there before the recording began",) * bool(blocks)
        old = (Buffer(block.size, -1, stream=block.stream) for block in blocks)
        return ReadHistory((*buffers, *old), events, ops, len(front), held)


def rounded(size: int) -> int:
    """To 512 bytes, as the caching allocator rounds a request."""
    return max(512, (size + 511) // 512 * 512)
