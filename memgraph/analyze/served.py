"""What the model of the caching allocator makes of recorded requests. The capture has no part in it, so this is where a
wrong model shows."""

from __future__ import annotations

from typing import NamedTuple

from memgraph.analyze.replay_fast import replay
from memgraph.gpu.allocator.blocks import Block
from memgraph.gpu.allocator.caching import Allocator
from memgraph.gpu.allocator.config import AllocatorConfig
from memgraph.gpu.allocator.out_of_memory import OutOfMemory
from memgraph.gpu.allocator.segments import RecordedAddresses
from memgraph.gpu.allocator.ties import NEWEST
from memgraph.trace import Action, Buffer, Trace, Usage

_ALLOC, _FREE = int(Action.ALLOC), int(Action.FREE)
_ENDLESS = 2**62
_TIES = (NEWEST, (2, 12), (2, 11))
"""Versions of torch whose allocators choose among equal blocks differently; all that a recording of an unknown one can
be."""


class Placed(NamedTuple):
    """The model, told where the segments lie."""

    same: int
    """Blocks that it put where PyTorch did."""
    blocks: int
    allocated: int
    """Highest bytes."""
    torch: str
    """Whose allocator it was, `2.11`."""


def served(measured: Trace) -> Usage:
    """The recorded requests through the model as that torch has it, its segments where it thinks. Highest bytes."""
    version, actions = version_of(measured.torch) or NEWEST, measured.events.columns[0]
    if Action.SEGMENT_FREE in actions or measured.waits:  # the cache was emptied, or blocks waited for other streams
        allocator = Allocator(_ENDLESS, _config(measured), torch=version)
        through(allocator, measured)
        return Usage(allocator.peak_requested, allocator.peak_allocated, allocator.peak_reserved)
    pairs = zip(actions, measured.events.columns[1], strict=True)
    events = [buffer if action == _ALLOC else ~buffer for action, buffer in pairs if action in (_ALLOC, _FREE)]
    sizes, streams = ([getattr(buffer, name) for buffer in measured.buffers] for name in ("size", "stream"))
    found = replay(events, sizes, _ENDLESS, _config(measured), torch=version, streams=streams)
    return Usage(measured.peak.requested, found.allocated, found.reserved)


class Highest(NamedTuple):
    """Highest bytes."""

    requested: int
    allocated: int
    active: int
    reserved: int


def eagerly(trace: Trace) -> Highest:
    """A run as it is on its card if blocks that other streams used come back as early as can be: when the allocator
    asks next, before it serves the request that follows."""
    allocator = Allocator(trace.memory, _config(trace), torch=version_of(trace.torch) or NEWEST)
    through(allocator, trace, eager=True)
    return Highest(allocator.peak_requested, allocator.peak_allocated, allocator.peak_active, allocator.peak_reserved)


def lately(trace: Trace) -> Highest:
    """The same if they come back as late as can be, and so does what libraries may hold."""
    if not trace.late:
        return Highest(trace.peak.requested, trace.peak.allocated, trace.peak.active, trace.peak.reserved)
    allocator = Allocator(trace.memory, _config(trace), torch=version_of(trace.torch) or NEWEST)
    through(allocator, trace, late=True)
    return Highest(allocator.peak_requested, allocator.peak_allocated, allocator.peak_active, allocator.peak_reserved)


def placed(measured: Trace) -> Placed | None:
    """The same with the recorded segments, block by block. None if the recording has no addresses, or began with
    blocks on the card that nobody saw arrive."""
    if measured.settings.get("via") == "hook" or not any(measured.events.columns[3]):
        return None
    if measured.phases and measured.phases[0].name == "before":
        return None
    version = version_of(measured.torch)
    tried = (_placed(measured, own) for own in ((version,) if version else _TIES))
    return max(tried, key=lambda found: found.same)


def _placed(measured: Trace, version: tuple[int, int]) -> Placed:
    actions, _, _, addresses, _ = measured.events.columns
    segments = (place for action, place in zip(actions, addresses, strict=True) if action == Action.SEGMENT_ALLOC)
    allocator = Allocator(_ENDLESS, _config(measured), addresses=RecordedAddresses(segments), torch=version)
    same = through(allocator, measured)
    return Placed(same, actions.count(_ALLOC), allocator.peak_allocated, f"{version[0]}.{version[1]}")


def through(allocator: Allocator, measured: Trace, *, eager: bool = False, late: bool = False) -> int:
    """Put the recorded requests through it; how many blocks have the recorded address. Where PyTorch gave segments
    back, it emptied its cache: all at once, because a script said so or because the card was full. A card that is full
    is taken to be larger, as in a prediction."""
    actions, buffers, _, addresses, _ = measured.events.columns
    blocks: dict[int, Block] = {}
    same = before = 0
    held = dict(measured.late) if late else {}
    for place, (action, buffer, address) in enumerate(zip(actions, buffers, addresses, strict=True)):
        for gone in [each for each, stop in held.items() if stop <= place] if held else ():
            del held[gone]
            allocator.free(blocks.pop(gone))
        if action == _ALLOC:
            if eager:
                _return_all(allocator)
            block = blocks[buffer] = _served(allocator, measured.buffers[buffer])
            same += block.address == address
        elif action == _FREE and buffer not in held:
            allocator.free(blocks.pop(buffer))
        elif action == Action.FREE_REQUESTED and buffer not in held and buffer in blocks:
            allocator.free(blocks[buffer], wait=True)
        elif action == Action.FREE_COMPLETED and buffer not in held and buffer in blocks:  # else it was held for longer
            block = blocks.pop(buffer)
            if block in allocator.awaiting:  # else it came back before
                allocator.complete(block)
        elif action == Action.SEGMENT_FREE != before:
            allocator.empty_cache()
        before = action
    return same


def _served(allocator: Allocator, buffer: Buffer) -> Block:
    try:
        return allocator.malloc(buffer.size, buffer.stream)
    except OutOfMemory:
        allocator.capacity = _ENDLESS
        return allocator.malloc(buffer.size, buffer.stream)


def _return_all(allocator: Allocator) -> None:
    for block in list(allocator.awaiting):
        allocator.complete(block)


def _config(measured: Trace) -> AllocatorConfig:
    return AllocatorConfig.parse(str(measured.settings.get("alloc_conf") or ""))


def version_of(text: str) -> tuple[int, int] | None:
    """`2.11.0+cu130` as (2, 11); None if it is not told."""
    parts = text.split(".")[:2]
    return (int(parts[0]), int(parts[1])) if len(parts) == 2 and all(part.isdecimal() for part in parts) else None
