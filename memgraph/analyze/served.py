"""What the model of the caching allocator makes of recorded requests. The capture has no part in it, so this is where a
wrong model shows."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
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
_GIVEN = frozenset((_FREE, int(Action.FREE_REQUESTED), int(Action.FREE_COMPLETED)))
_ENDLESS = 2**62
LONGEST = 500_000
"""Events that are put through the model."""
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
    through(allocator, trace, behind=0)
    return Highest(allocator.peak_requested, allocator.peak_allocated, allocator.peak_active, allocator.peak_reserved)


def lately(trace: Trace) -> Highest:
    """The same if they come back as late as can be, and so does what libraries may hold."""
    if not trace.late:
        return Highest(trace.peak.requested, trace.peak.allocated, trace.peak.active, trace.peak.reserved)
    allocator = Allocator(trace.memory, _config(trace), torch=version_of(trace.torch) or NEWEST)
    through(allocator, trace, late=True)
    return Highest(allocator.peak_requested, allocator.peak_allocated, allocator.peak_active, allocator.peak_reserved)


BEHIND = (1, 8, 64, 512)
"""Allocations by which a card may be behind its host: between the two ends."""


def reserved_between(trace: Trace) -> list[int]:
    """Highest reserved bytes where blocks come back neither as early nor as late as can be. Sums of what is there lie
    between the two ends; segments need not, for what is back decides which free block a request is served from."""
    found = []
    for behind in BEHIND:
        allocator = Allocator(trace.memory, _config(trace), torch=version_of(trace.torch) or NEWEST)
        through(allocator, trace, behind=behind, late=True)
        found.append(allocator.peak_reserved)
    return found


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


def is_long(trace: Trace) -> bool:
    """Whether a trace has more events than are put through the model to say more of it."""
    return len(trace.events) > LONGEST


def through(allocator: Allocator, measured: Trace, *, behind: int | None = None, late: bool = False) -> int:
    """Put the recorded requests through it; how many blocks have the recorded address. Where PyTorch gave segments
    back, it emptied its cache: all at once, because a script said so or because the card was full. A card that is full
    is taken to be larger, as in a prediction.

    Args:
        behind: the card is behind the host by so many allocations: blocks that other streams used come back after
            them (0: when the allocator asks next), or when that is certain, if it is earlier. None: when it is certain.
        late: what libraries may hold comes back in the same way, and not at once.
    """
    actions, buffers, _, addresses, _ = measured.events.columns
    blocks: dict[int, Block] = {}
    same = before = 0
    held = _Held(allocator, blocks, measured.late if late else (), behind)
    for place, (action, buffer, address) in enumerate(zip(actions, buffers, addresses, strict=True)):
        if held.stops and held.stops[-1][0] <= place:
            held.until(place)
        if action == _ALLOC:
            if behind is not None:
                held.ask()
            block = blocks[buffer] = _served(allocator, measured.buffers[buffer])
            same += block.address == address
        elif action == _FREE and buffer not in held.late and buffer in blocks:  # else a library let go of it before
            allocator.free(blocks.pop(buffer))
        elif action in _GIVEN and buffer in blocks:  # else it came back before
            held.give(buffer, Action(action))
        elif action == Action.SEGMENT_FREE != before:
            allocator.empty_cache()
        before = action
    return same


class _Held:
    """Blocks that were let go, and are not back yet.

    Args:
        blocks: of each buffer that has one.
        late: the event until which a library may hold a buffer.
        behind: as of `through`.
    """

    def __init__(
        self, allocator: Allocator, blocks: dict[int, Block], late: Iterable[tuple[int, int]], behind: int | None
    ) -> None:
        self._allocator, self._blocks, self._behind = allocator, blocks, behind
        self.stops = sorted(((stop, buffer) for buffer, stop in late), reverse=True)
        self.late = {buffer for _, buffer in self.stops}
        self._used: set[int] = set()
        """Those that other streams used."""
        self._waiting: deque[tuple[int, int]] = deque()
        """At how many allocations they come back, and which."""
        self._asked = 0

    def until(self, place: int) -> None:
        """An event is reached: what is held no longer than to it."""
        while self.stops and self.stops[-1][0] <= place:
            self._back(self.stops.pop()[1])

    def ask(self) -> None:
        """The allocator is asked for memory, and looks first what the card is done with."""
        while self._waiting and self._waiting[0][0] <= self._asked:
            self._back(self._waiting.popleft()[1])
        self._asked += 1

    def give(self, buffer: int, how: Action) -> None:
        """The program lets a buffer go, or the card is certain to be done with it."""
        if how is Action.FREE_COMPLETED:
            if buffer not in self.late:
                self._back(buffer)
            return
        if buffer not in self.late:
            self._used.add(buffer)
            self._allocator.free(self._blocks[buffer], wait=True)
        if self._behind is not None:
            self._waiting.append((self._asked + self._behind, buffer))

    def _back(self, buffer: int) -> None:
        self.late.discard(buffer)
        block = self._blocks.pop(buffer, None)
        if block is None:
            return
        if buffer not in self._used:
            self._allocator.free(block)
        elif block in self._allocator.awaiting:  # else the cache was emptied, which waits for all
            self._allocator.complete(block)


def _served(allocator: Allocator, buffer: Buffer) -> Block:
    try:
        return allocator.malloc(buffer.size, buffer.stream)
    except OutOfMemory:
        allocator.capacity = _ENDLESS
        return allocator.malloc(buffer.size, buffer.stream)


def _config(measured: Trace) -> AllocatorConfig:
    return AllocatorConfig.parse(str(measured.settings.get("alloc_conf") or ""))


def version_of(text: str) -> tuple[int, int] | None:
    """`2.11.0+cu130` as (2, 11); None if it is not told."""
    parts = text.split(".")[:2]
    return (int(parts[0]), int(parts[1])) if len(parts) == 2 and all(part.isdecimal() for part in parts) else None
