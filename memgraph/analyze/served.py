"""What the model of the caching allocator makes of recorded requests. The capture has no part in it, so this is where a
wrong model shows."""

from __future__ import annotations

from typing import NamedTuple

from memgraph.analyze.replay_fast import replay
from memgraph.gpu.allocator.blocks import Block
from memgraph.gpu.allocator.caching import Allocator
from memgraph.gpu.allocator.config import AllocatorConfig
from memgraph.gpu.allocator.segments import RecordedAddresses
from memgraph.gpu.allocator.ties import NEWEST
from memgraph.trace import Action, Trace, Usage

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
    if Action.SEGMENT_FREE in actions:  # the cache was emptied
        allocator = Allocator(_ENDLESS, _config(measured), torch=version)
        _through(allocator, measured)
        return Usage(allocator.peak_requested, allocator.peak_allocated, allocator.peak_reserved)
    pairs = zip(actions, measured.events.columns[1], strict=True)
    events = [buffer if action == _ALLOC else ~buffer for action, buffer in pairs if action in (_ALLOC, _FREE)]
    found = replay(events, [buffer.size for buffer in measured.buffers], _ENDLESS, _config(measured), torch=version)
    return Usage(measured.peak.requested, found.allocated, found.reserved)


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
    same = _through(allocator, measured)
    return Placed(same, actions.count(_ALLOC), allocator.peak_allocated, f"{version[0]}.{version[1]}")


def _through(allocator: Allocator, measured: Trace) -> int:
    """Put the recorded requests through it; how many blocks have the recorded address. Where PyTorch gave segments
    back, it emptied its cache: all at once, because a script said so or because the card was full."""
    actions, buffers, _, addresses, _ = measured.events.columns
    blocks: dict[int, Block] = {}
    sizes = [buffer.size for buffer in measured.buffers]
    same = before = 0
    for action, buffer, address in zip(actions, buffers, addresses, strict=True):
        if action == _ALLOC:
            block = blocks[buffer] = allocator.malloc(sizes[buffer])
            same += block.address == address
        elif action == _FREE:
            allocator.free(blocks.pop(buffer))
        elif action == Action.SEGMENT_FREE != before:
            allocator.empty_cache()
        before = action
    return same


def _config(measured: Trace) -> AllocatorConfig:
    return AllocatorConfig.parse(str(measured.settings.get("alloc_conf") or ""))


def version_of(text: str) -> tuple[int, int] | None:
    """`2.11.0+cu130` as (2, 11); None if it is not told."""
    parts = text.split(".")[:2]
    return (int(parts[0]), int(parts[1])) if len(parts) == 2 and all(part.isdecimal() for part in parts) else None
