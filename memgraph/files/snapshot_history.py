"""The entries of torch's memory history, as they come, as buffers and events.

What was there before the recording began is found from how it ended: the segments of a snapshot less what was allocated
since. What a block takes beyond its request follows from where it was put (`gpu/allocator/followed.py`), and for blocks
that are there at the end the file says it.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from memgraph.files.native_frames import native_frames
from memgraph.files.plain_pickle import Items
from memgraph.files.stacks import NOWHERE, Frame, Site, frame_of, site_of
from memgraph.files.told_buffers import told_buffers
from memgraph.gpu.allocator.config import AllocatorConfig
from memgraph.gpu.allocator.followed import Followed
from memgraph.trace import Action, Event, Events
from memgraph.trace.rows import Buffers

_STACKS = 100_000
"""Distinct stacks that are kept in mind."""
_BEFORE = (
    "{:,} buffers were there before the recording began, and the file has no op or line of them: begin it before the "
    "model is made (torch.cuda.memory._record_memory_history(stacks='all') above that line) to have them"
)
_ALLOC, _FREE, _REQUESTED = int(Action.ALLOC), int(Action.FREE), int(Action.FREE_REQUESTED)
_LET_GO = frozenset((_FREE, _REQUESTED, int(Action.FREE_COMPLETED)))


class Block(NamedTuple):
    """A block of a snapshot's segments that is in use. Bytes."""

    address: int
    size: int
    requested: int
    site: int
    stream: int
    waits: bool
    """It was freed, and waits for other streams."""


class Segment(NamedTuple):
    """Memory that was taken from the card."""

    address: int
    size: int
    expandable: bool
    blocks: tuple[Block, ...]


class ReadHistory(NamedTuple):
    """Entries as a trace has them; an op of a buffer is an index into `sites`."""

    buffers: Buffers
    events: Events
    sites: tuple[Site, ...]
    before: int
    """Events at the front for what was there before the recording began."""
    notes: tuple[str, ...]
    ended: Sequence[int] = ()
    """Of each buffer the site at which it was freed, -1 if it was not or that is not known."""


class History:
    """Follows the entries of one device, and keeps them as columns."""

    def __init__(self) -> None:
        self.sizes, self.makers, self.streams = array("q"), array("q"), array("q")
        """Of each buffer its requested bytes, the site that made it, and its stream."""
        self.ended = array("q")
        """Of each buffer the site that freed it, -1 if none did."""
        self.events = Events()
        self._add = tuple(column.append for column in self.events.columns)
        self._add_buffer = tuple(column.append for column in (self.sizes, self.makers, self.streams, self.ended))
        self.sites: dict[Site, int] = {}
        self._stacks: dict[Any, tuple[Any, int]] = {}
        self._frames: dict[int, tuple[Any, Frame]] = {}
        self._native: dict[str, list[dict[str, str | int]]] = {}
        self._live: dict[int, int] = {}
        self._numbers = {0: 0}
        self._asked = -1
        self._waiting: dict[int, int] = {}
        self._old: list[tuple[int, int, int, int]] = []
        """Address, bytes, stream, and the place of the event at which a block died that was there before."""
        self._whole: dict[int, bool] = {}

    def __len__(self) -> int:
        return len(self.events)

    def follow(self, entry: Mapping[str, Any]) -> None:
        """The next entry. What was refused has no address."""
        action = entry["action"]
        site = self.site(entry)
        self.row(action, int(entry.get("addr", 0)), int(entry["size"]), int(entry.get("stream", 0)), site)

    def row(self, action: str, address: int, size: int, stream: int, site: int) -> None:
        """The next entry.

        Args:
            site: the number of the site of its stack.
        """
        self.rows((action,), (address,), (size,), (stream,), (site,))

    def rows(
        self, actions: Sequence[str], addresses: Sequence[int], sizes: Sequence[int], streams: Sequence[int],
        sites: Sequence[int],
    ) -> None:  # fmt: skip
        """The next ones, likewise. One loop on purpose, allocs and frees in it: calls would take most of the time."""
        live, waiting, ended, asked = self._live, self._waiting, self.ended, self._asked
        add_action, add_buffer, add_op, add_address, add_size = self._add
        add_wanted, add_maker, add_stream, add_end = self._add_buffer
        for action, address, size, stream, site in zip(actions, addresses, sizes, streams, sites, strict=True):
            if asked >= 0:
                if address != asked or action != "free_completed":
                    self._wait(asked)
                asked = -1
            if action == "alloc":
                buffer = live[address] = len(ended)
                add_action(_ALLOC)
                add_op(site)
                add_size(size)
                add_wanted(size)
                add_maker(site)
                add_stream(self.stream(stream) if stream else 0)
                add_end(-1)
            elif action == "free_requested":
                asked = address
                continue
            elif action == "free_completed" and address in live and address not in waiting:
                buffer = live.pop(address)
                ended[buffer] = site
                add_action(_FREE)
                add_op(-1)
                add_size(0)
            else:
                self._other(action, address, size, stream, site)
                continue
            add_buffer(buffer)
            add_address(address)
        self._asked = asked

    def _other(self, action: str, address: int, size: int, stream: int, site: int) -> None:
        """The next entry, of those that are not frequent."""
        if action == "free_completed" and address in self._waiting:
            self._write(Action.FREE_COMPLETED, self._waiting.pop(address), -1, address, 0)
        elif action == "free_completed":
            self._old.append((address, size, self.stream(stream), len(self.events)))
            self._write(Action.FREE, -1, -1, address, 0)  # its buffer is named at the end
        elif action in ("segment_alloc", "segment_map"):
            self._write(Action.SEGMENT_ALLOC, -1, -1, address, size)
            self._whole[len(self.events) - 1] = action == "segment_alloc"
        elif action in ("segment_free", "segment_unmap"):
            self._write(Action.SEGMENT_FREE, -1, -1, address, size)
        elif action == "oom":
            self._write(Action.OUT_OF_MEMORY, -1, site, 0, max(1, size))

    def stream(self, stream: int) -> int:
        """The number of a stream, 0 for the default one."""
        return self._numbers.setdefault(stream, len(self._numbers))

    def _wait(self, address: int) -> None:
        """It was freed, and is not returned at once: other streams used it."""
        buffer = self._live.pop(address, None)
        if buffer is not None:
            self._waiting[address] = buffer
            self._write(Action.FREE_REQUESTED, buffer, -1, address, 0)

    def _write(self, action: int, buffer: int, op: int, address: int, size: int) -> None:
        add_action, add_buffer, add_op, add_address, add_size = self._add
        add_action(action)
        add_buffer(buffer)
        add_op(op)
        add_address(address)
        add_size(size)

    def site(self, told: Mapping[str, Any]) -> int:
        """That of an entry, or of a block's history, with frames of its own; torch 2.0 has those of C++ beside them."""
        frames, native = told.get("frames"), told.get("cpp_frames")
        if not native:
            return self.stack(frames)
        known = self._native.get(native)
        if known is None:
            if len(self._native) > _STACKS:
                self._native.clear()
            known = self._native[native] = native_frames(native)
        return self.stack([*known, *(frames if isinstance(frames, list) else ())])

    def stack(self, frames: Any) -> int:
        """The number of the site that a stack is; -1 if it is empty."""
        if isinstance(frames, int):
            return frames if -1 <= frames < len(self.sites) else -1
        if not frames:
            return -1
        key = getattr(frames, "same", None) if type(frames) is Items else None
        if key is None:
            key = tuple(map(id, frames))
        known = self._stacks.get(key)
        if known is None:
            if len(self._stacks) > _STACKS:
                self._stacks.clear()
                self._frames.clear()
            found = site_of([self._frame(told) for told in frames])
            number = -1 if found == NOWHERE else self.sites.setdefault(found, len(self.sites))
            known = self._stacks[key] = tuple(frames), number  # the frames stay, and so do their ids
        return known[1]

    def _frame(self, told: Any) -> Frame:
        """As `frame_of`, once for each: stacks share them, and the frames stay while they are in mind."""
        known = self._frames.get(id(told))
        if known is None:
            known = self._frames[id(told)] = told, frame_of(told)
        return known[1]

    # What was there before.

    def read(self, segments: Sequence[Segment], config: AllocatorConfig) -> ReadHistory:
        """All of it, with what was there before at the front, and the blocks' bytes.

        Args:
            segments: those at the end; empty if that is not known.
        """
        if self._asked >= 0:
            self._wait(self._asked)
        blocks = {block.address: block for segment in segments for block in segment.blocks}
        stayed = [block for address, block in blocks.items()
                  if address not in self._live and address not in self._waiting]  # fmt: skip
        front = Events()
        whole = self._before(front, segments)
        old = [Block(address, 0, size, -1, stream, False) for address, size, stream, _ in self._old] + stayed
        for number, block in enumerate(old, len(self.sizes)):
            for column, value in zip(front.columns, (Action.ALLOC, number, block.site, block.address, 0), strict=True):
                column.append(value)
        for number, (_, _, _, place) in enumerate(self._old, len(self.sizes)):
            self.events.columns[1][place] = number
        events = Events(columns=[one + two for one, two in zip(front.columns, self.events.columns, strict=True)])
        waiting = [(number, block) for number, block in enumerate(old, len(self.sizes)) if block.waits]
        for number, block in waiting:
            events.append(Event(Action.FREE_REQUESTED, number, -1, block.address, 0))
        buffers = told_buffers(
            self.sizes + array("q", [block.requested for block in old]),
            self.makers + array("q", [block.site for block in old]),
            self.streams + array("q", [block.stream for block in old]),
        )
        known = {number: block.size for number, block in enumerate(old, len(self.sizes)) if block.size}
        known |= {buffer: blocks[address].size for address, buffer in self._live.items() if address in blocks}
        whole |= {place + len(front): value for place, value in self._whole.items()}
        first = [(block.address, block.size or block.requested, bool(block.size)) for block in old]
        _measure(events, buffers.sizes, known, whole, config, first)
        held = (_BEFORE.format(len(old)),) * bool(old and len(self.events))
        return ReadHistory(buffers, events, tuple(self.sites), len(front) if len(self.events) else 0, held,
                           self.ended + array("q", [-1]) * len(old))  # fmt: skip

    def _before(self, front: Events, segments: Sequence[Segment]) -> dict[int, bool]:
        """Writes down the memory that was taken from the card before; which of it is a segment as a whole."""
        kinds = {segment.address: not segment.expandable for segment in segments}
        spans = [(segment.address, segment.address + segment.size) for segment in segments]
        actions, _, _, addresses, sizes = self.events.columns
        for place in range(len(actions) - 1, -1, -1):
            if actions[place] == Action.SEGMENT_ALLOC:
                spans = without(spans, addresses[place], addresses[place] + sizes[place])
            elif actions[place] == Action.SEGMENT_FREE:
                spans.append((addresses[place], addresses[place] + sizes[place]))
        whole = {}
        for start, stop in sorted(spans):
            whole[len(front)] = kinds.get(start, True)
            front.append(Event(Action.SEGMENT_ALLOC, -1, -1, start, stop - start))
        return whole


def without(spans: Iterable[tuple[int, int]], start: int, stop: int) -> list[tuple[int, int]]:
    """Stretches of addresses less one of them."""
    rows = []
    for one, other in spans:
        if other <= start or stop <= one:
            rows.append((one, other))
        else:
            rows += [(low, high) for low, high in ((one, start), (stop, other)) if low < high]
    return rows


def _measure(
    events: Events, wanted: Sequence[int], known: Mapping[int, int], whole: Mapping[int, bool], config: AllocatorConfig,
    first: Sequence[tuple[int, int, bool]],
) -> None:  # fmt: skip
    """Writes the blocks' bytes into the events, which have none for allocs and frees.

    Args:
        wanted: requested bytes of each buffer.
        known: bytes of blocks that somebody knows.
        whole: of events of the card's memory whether it is a segment as a whole.
        first: the blocks that were there before: address, bytes, and whether these are known. Their allocs come last
            of the events at the front.
    """
    followed = Followed(config)
    actions, buffers, _, addresses, sizes = events.columns
    old = len(wanted) - len(first)
    taken: dict[int, int] = {}
    there: dict[int, int] = {}
    for place, (action, buffer, address) in enumerate(zip(actions, buffers, addresses, strict=True)):
        if action == _ALLOC and buffer >= old:
            there = there or followed.occupy(first)
            taken[buffer] = sizes[place] = there[address]
        elif action == _ALLOC:
            taken[buffer] = sizes[place] = followed.take(address, wanted[buffer], known.get(buffer, 0))
        elif action in _LET_GO:
            sizes[place] = taken[buffer]
            if action != _REQUESTED:
                followed.give(address)
        elif action == Action.SEGMENT_ALLOC:
            followed.map(address, sizes[place], whole=whole.get(place, True))
        elif action == Action.SEGMENT_FREE:
            followed.unmap(address, sizes[place])
