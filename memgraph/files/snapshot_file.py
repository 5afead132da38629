"""Memory snapshots of PyTorch (`torch.cuda.memory._dump_snapshot`) as measured traces.

A snapshot is a pickle. It is read as plain data, so a file from somebody else cannot run code, and as a stream that
keeps events, not the dictionaries they came in: a gigabyte is common.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from memgraph.errors import DAMAGED, TraceError, UsageError
from memgraph.files import plain_pickle
from memgraph.files.plain_pickle import Forget, Items, PickleError
from memgraph.files.snapshot_earlier import told_earlier
from memgraph.files.snapshot_history import Block, History, ReadHistory, Segment
from memgraph.files.snapshot_kinds import with_categories
from memgraph.files.snapshot_lines import ops_of
from memgraph.files.snapshot_phases import phases
from memgraph.files.snapshot_rounds import rounds
from memgraph.files.told_buffers import for_trace
from memgraph.gpu.allocator.config import AllocatorConfig
from memgraph.trace import Trace

_USED = ("active_allocated", "active_awaiting_free", "active_pending_free")
"""States of a block whose bytes are not there for others; the last was its name before torch 2.1."""
_LINES = "lines of a backward are those of the forward ops in reverse order, as autograd runs them"


def load_snapshot(path: Path, *, libraries: bool = False) -> Trace:
    """Read a snapshot of PyTorch, of the device on which most happened: a pickle of `_dump_snapshot`, or of the list of
    `torch.cuda.memory_snapshot()`.

    Args:
        libraries: give the lines of the libraries that call torch alone, without those that call the libraries.

    Raises:
        TraceError: it is not plain data, damaged, or no snapshot.
    """
    try:
        with path.open("rb") as file:
            data = plain_pickle.load(file, _take, _history)
        trace = _trace(path, data, libraries)
        trace.self_check()
    except OSError as error:
        raise TraceError(f"cannot read {path}: {error.strerror or error}") from error
    except TraceError as error:
        raise TraceError(f"{path}: {error}") from error
    except PickleError as error:
        raise TraceError(f"{path} is not a snapshot of PyTorch: {error}") from error
    except DAMAGED as error:
        raise TraceError(f"{path} is not a snapshot of PyTorch: {type(error).__name__} {str(error)[:100]}") from error
    return trace


def _trace(path: Path, data: Any, libraries: bool) -> Trace:
    whole: Mapping[str, Any] = {"segments": data, "device_traces": []} if isinstance(data, list) else data
    traces = [getattr(trace, "taken", None) or History() for trace in whole["device_traces"]]
    rows = list(whole.get("segments", ()))
    device = _device(traces, rows)
    history = traces[device] if device < len(traces) else History()
    config, notes = _config(whole, rows)
    segments = [_segment(row, history) for row in rows if int(row.get("device", 0)) == device]
    read_ = history.read(segments, config)
    callers = {} if libraries else {site.inner: site.source for site in read_.sites if site.inner != site.source}
    read_ = read_._replace(sites=tuple(site._replace(source=site.inner) for site in read_.sites))
    others = sorted({int(row.get("device", 0)) for row in rows} | {n for n, one in enumerate(traces) if len(one)})
    more = (f"devices {', '.join(map(str, others))} are in the snapshot; this is device {device}",) * (len(others) > 1)
    return explained(Trace(
        origin="measured", gpu="unknown", memory=0, torch="unknown", settings=_settings(path, whole), ops=(),
        buffers=(), events=read_.events, phases=(), assumptions=(*read_.notes, *notes, *more),
        callers=tuple(callers.items()),
    ), read_)  # fmt: skip


def explained(trace: Trace, history: ReadHistory) -> Trace:
    """The trace with what its stacks, lives and sizes say: phases, ops, and what each buffer is for."""
    found = phases(history.events, history.sites, history.before)
    begun = rounds(history.buffers, history.events, history.sites, found)
    buffers = with_categories(history.buffers, history.events, history.sites, found, history.ended)
    ops, buffers, events = ops_of(buffers, history.events, history.sites, found)
    guessed = (_LINES,) * any(op.forward >= 0 for op in ops)
    ops, buffers, inferred = told_earlier(ops, buffers, events, history.sites, found)
    return dataclasses.replace(
        trace, ops=ops, buffers=for_trace(buffers), events=events, phases=found, rounds=begun,
        assumptions=(*trace.assumptions, *inferred, *guessed),
    )  # fmt: skip


def _device(traces: Sequence[History], segments: Iterable[Mapping[str, Any]]) -> int:
    """The one on which most happened, or that holds most where no history was kept."""
    held: dict[int, int] = {}
    for row in segments:
        device = int(row.get("device", 0))
        held[device] = held.get(device, 0) + int(row["total_size"])
    count = {number: len(trace) for number, trace in enumerate(traces)}
    return max({*held, *count} or {0}, key=lambda device: (count.get(device, 0), held.get(device, 0), -device))


def _segment(row: Mapping[str, Any], history: History) -> Segment:
    """A segment as any torch since 2.0 writes it. Before 2.1 blocks had no addresses, and kept what they had held."""
    address, stream = int(row["address"]), int(row.get("stream", 0))
    return Segment(
        address, int(row["total_size"]), bool(row.get("is_expandable", False)),
        tuple(_blocks(row, address, history, history.stream(stream))),
    )  # fmt: skip


def _blocks(row: Mapping[str, Any], address: int, history: History, stream: int) -> Iterator[Block]:
    at = address
    for block in row["blocks"]:
        start, size = int(block.get("address", at)), int(block["size"])
        at = start + size
        if block["state"] in _USED:
            told: Mapping[str, Any] = next(iter(block.get("history") or ()), {})
            wanted = int(block.get("requested_size") or told.get("real_size") or size)
            maker = history.site(block if block.get("frames") else told)
            yield Block(start, size, wanted, maker, stream, block["state"] != _USED[0])


def _config(data: Mapping[str, Any], segments: Iterable[Mapping[str, Any]]) -> tuple[AllocatorConfig, tuple[str, ...]]:
    """The allocator's settings, as far as they are known."""
    notes: tuple[str, ...] = ()
    try:
        config = AllocatorConfig.parse(_told(data))
    except UsageError as error:
        config, notes = AllocatorConfig(), (f"the allocator's settings were not understood: {error}",)
    grows = any(row.get("is_expandable") for row in segments)
    return (dataclasses.replace(config, expandable_segments=True) if grows else config), notes


def _told(data: Mapping[str, Any]) -> str:
    settings = data.get("allocator_settings") or {}
    return str(settings.get("PYTORCH_CUDA_ALLOC_CONF") or settings.get("PYTORCH_ALLOC_CONF") or "")


def _settings(path: Path, data: Mapping[str, Any]) -> dict[str, Any]:
    """The allocator's own, where the snapshot has them."""
    return {"snapshot": path.name, **({"alloc_conf": told} if (told := _told(data)) else {})}


def _take(items: Items, entry: dict[Any, Any], forget: Forget) -> bool:
    """An entry of torch's history, as soon as it is whole and in its list. Each has a list of frames of its own; its
    site stands for it."""
    if "action" not in entry:
        return False
    _history(items).follow(entry)
    frames = entry.get("frames")
    if type(frames) is Items and hasattr(frames, "place") and "cpp_frames" not in entry:
        forget(frames, items.taken.stack(frames))
    return True


def _history(items: Items) -> History:
    if not hasattr(items, "taken"):
        items.taken = History()
    return items.taken


def read(snapshot: Mapping[str, Any], device: int) -> ReadHistory:
    """One device of a snapshot as torch has it in memory, `torch.cuda.memory._snapshot()`."""
    history = History()
    for entry in snapshot["device_traces"][device]:
        history.follow(entry)
    rows = [row for row in snapshot.get("segments", ()) if int(row.get("device", 0)) == device]
    return history.read([_segment(row, history) for row in rows], _config(snapshot, rows)[0])


def rounded(size: int) -> int:
    """To 512 bytes, as the caching allocator rounds a request."""
    return max(512, (size + 511) // 512 * 512)
