"""`Trace`: what one run did to GPU memory. The waist of the pipeline.

A capture fills a trace once, predicted or measured alike; everything after it is a function of it. Plain frozen data,
no torch. All sizes are bytes. The clock of a trace is the index of its events.
"""

from __future__ import annotations

import enum
import functools
import math
import os
import re
from array import array
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import accumulate
from typing import Any, NamedTuple, overload

SCHEMA = 1
"""Version of the file format; a reader refuses a newer one."""


class Category(enum.StrEnum):
    """What a buffer is for. Known from what the run did with it, never guessed from a name."""

    PARAMETER = "parameters"
    GRADIENT = "gradients"
    OPTIMIZER = "optimizer state"
    ACTIVATION = "activations"
    INPUT = "inputs"
    TEMPORARY = "temporaries"
    WORKSPACE = "workspace"
    UNKNOWN = "unknown"


class Action(enum.IntEnum):
    """What the allocator did."""

    ALLOC = 0
    FREE = 1
    SEGMENT_ALLOC = 2
    SEGMENT_FREE = 3
    OUT_OF_MEMORY = 4


_HELD = (1, -1, 0, 0, 0)
"""What each action does to the bytes that tensors hold, and to those taken from the card; by its number."""
_TAKEN = (0, 0, 1, -1, 0)


class Role(enum.StrEnum):
    """Why an op allocated a buffer."""

    OUTPUT = "output"
    TEMPORARY = "temporary"
    LIBRARY = "library"
    """A workspace that a library keeps, such as cuBLAS's."""


_BITS = re.compile(r"\d+")


class TensorSpec(NamedTuple):
    """Shape and dtype of a tensor, `((8, 512, 576), 'float32')`."""

    shape: tuple[int, ...]
    dtype: str

    @property
    def bytes(self) -> int:
        """Of its elements: the number in a dtype's name says the bits of one, and `bool` takes a byte."""
        if not self.dtype:
            return 0
        bits = _BITS.search(self.dtype)
        return math.prod(self.shape) * (int(bits[0]) // 8 if bits else 1)


class Op(NamedTuple):
    """One ATen call."""

    name: str
    """`aten.mm.default`"""
    phase: int
    """Index into `Trace.phases`."""
    module: str = ""
    """Path of the module whose forward, or whose backward, ran it; empty outside any."""
    source: str = ""
    """`file.py:91`, the user's own line; of the forward op for a backward op."""
    inputs: tuple[TensorSpec, ...] = ()
    outputs: tuple[TensorSpec, ...] = ()
    forward: int = -1
    """For a backward op the index of the forward op that it differentiates, else -1."""
    reads: tuple[int, ...] = ()
    """Indices of the ops whose results it takes, in the order of its arguments; empty where that is not known."""


class Buffer(NamedTuple):
    """One allocation: a storage, or a temporary inside an op."""

    size: int
    """Requested bytes."""
    op: int
    """Index of the op that allocated it, -1 outside any."""
    role: Role = Role.OUTPUT
    category: Category = Category.UNKNOWN
    name: str = ""
    """A name that the run knows: `decoder.head.weight`, `exp_avg of decoder.head.weight`, or empty."""
    shape: tuple[int, ...] = ()
    dtype: str = ""


class Saved(NamedTuple):
    """Tensors that a compiled forward keeps for its backward."""

    op: str
    """`gelu`, the op whose result it is."""
    module: str
    source: str
    shape: tuple[int, ...]
    dtype: str
    size: int
    """Bytes of one."""
    count: int = 0  # type: ignore[assignment]  # as `Consumer.count`


class Compilation(NamedTuple):
    """What `torch.compile` made of a run."""

    graphs: int
    """Wrappers that were generated: a forward and a backward are two."""
    breaks: tuple[str, ...]
    """Why graphs ended early, with the source line."""
    saved: tuple[Saved, ...]
    """What the partitioner keeps for the backward; parameters and inputs, which are there anyhow, left out."""
    recomputed: tuple[tuple[str, int], ...]
    """What it has computed again in the backward: op and how often."""
    pools: int
    """Bytes that pools of CUDA graphs would keep at most, `mode="reduce-overhead"`."""


class Phase(NamedTuple):
    """A stretch of the run: `load`, `input`, `forward`, `backward`, `optimizer`, or a name the user gave."""

    name: str
    step: int
    """0 before the first step, then 1, 2, …"""
    start: int
    """Index of its first event."""
    stop: int
    """One past its last event."""


class Event(NamedTuple):
    """One thing the allocator did."""

    action: Action
    buffer: int
    """Index into `Trace.buffers`; -1 for segments."""
    op: int
    """Index of the op that ran then, -1 outside any. For a free, the op during or after which the buffer died."""
    address: int
    size: int
    """For an alloc or free the block's bytes, which count as *allocated*; for a segment its bytes, *reserved*."""


class Events(Sequence[Event]):
    """The events of a run, kept in columns: a million of them take 33 MB, not 300."""

    __slots__ = ("_columns",)

    def __init__(self, rows: Iterable[Event] = (), *, columns: Sequence[array[int]] | None = None) -> None:
        self._columns = tuple(columns) if columns else tuple(array(code) for code in "bqqqq")
        for row in rows:
            self.append(row)

    def append(self, event: Event) -> None:
        """For whoever is filling them; once in a `Trace` they do not change."""
        for column, value in zip(self._columns, event, strict=True):
            column.append(value)

    @property
    def columns(self) -> tuple[array[int], ...]:
        """action, buffer, op, address, size: for loops that cannot afford an object a row. Do not change them."""
        return self._columns

    def __len__(self) -> int:
        return len(self._columns[0])

    @overload
    def __getitem__(self, index: int) -> Event: ...
    @overload
    def __getitem__(self, index: slice) -> Events: ...
    def __getitem__(self, index: int | slice) -> Event | Events:
        if isinstance(index, slice):
            return Events(columns=[column[index] for column in self._columns])
        action, buffer, op, address, size = (column[index] for column in self._columns)
        return Event(Action(action), buffer, op, address, size)

    def __iter__(self) -> Iterator[Event]:
        actions = tuple(Action)
        for action, buffer, op, address, size in zip(*self._columns, strict=True):
            yield Event(actions[action], buffer, op, address, size)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Events) and self._columns == other._columns

    def __hash__(self) -> int:
        return hash(tuple(bytes(column) for column in self._columns))


class Usage(NamedTuple):
    """Memory three ways, in bytes."""

    requested: int
    """What the tensors and workspaces asked for."""
    allocated: int
    """What the blocks given to them hold: `torch.cuda.memory_allocated`."""
    reserved: int
    """What the allocator took from the card: `torch.cuda.memory_reserved`. This decides what fits."""


class Peak(NamedTuple):
    """The highest figures of a run. The three need not fall together; the moment named is that of `requested`."""

    requested: int
    allocated: int
    reserved: int
    event: int
    """Index of the event that reached the requested peak, -1 if nothing was allocated."""
    phase: str
    step: int
    op: str
    module: str


class Life(NamedTuple):
    """When a buffer lived: events `start` ≤ t < `stop`; a buffer that outlives the run has `stop = len(events)`."""

    start: int
    stop: int


@dataclass(frozen=True)
class Trace:
    """One run's memory. See the module's text."""

    origin: str
    """`predicted` or `measured`."""
    gpu: str
    """Catalogue name, or the card's own."""
    memory: int
    """Bytes that the allocator may take from the card."""
    torch: str
    """Version of torch that ran, `2.13.0+cpu`."""
    settings: Mapping[str, Any]
    """What was run: model, batch, seq, precision, optimizer, … Plain JSON values."""
    ops: tuple[Op, ...]
    buffers: tuple[Buffer, ...]
    events: Events
    phases: tuple[Phase, ...]
    assumptions: tuple[str, ...] = ()
    """What was taken for granted, a sentence each, with its source line where it has one."""
    unknown_ops: tuple[str, ...] = ()
    """Ops whose inner allocations are not known; only their outputs are counted."""
    schema: int = field(default=SCHEMA)
    compilation: Compilation | None = None
    """What `torch.compile` did; None where nothing was compiled."""

    @functools.cached_property
    def lives(self) -> tuple[Life, ...]:
        """The life of each buffer, in the order of `buffers`."""
        return tuple(map(Life, *self.spans))

    @functools.cached_property
    def spans(self) -> tuple[array[int], array[int]]:
        """`lives` as two columns, starts and stops, for loops that cannot afford an object a row."""
        start, stop = array("q", [-1]) * len(self.buffers), array("q", [len(self.events)]) * len(self.buffers)
        alloc, free = int(Action.ALLOC), int(Action.FREE)
        actions, buffers = self.events.columns[:2]
        for index, (action, buffer) in enumerate(zip(actions, buffers, strict=True)):
            if action == alloc:
                start[buffer] = index
            elif action == free:
                stop[buffer] = index
        return start, stop

    @functools.cached_property
    def usage(self) -> tuple[array[int], array[int], array[int]]:
        """Requested, allocated and reserved bytes after each event: three arrays as long as `events`."""
        actions, buffers, _, _, sizes = self.events.columns
        wanted = [*(buffer.size for buffer in self.buffers), 0]  # the last where an event names no buffer
        requested = (wanted[buffer] * _HELD[action] for action, buffer in zip(actions, buffers, strict=True))
        allocated = (size * _HELD[action] for action, size in zip(actions, sizes, strict=True))
        reserved = (size * _TAKEN[action] for action, size in zip(actions, sizes, strict=True))
        return _summed(requested), _summed(allocated), _summed(reserved)

    @functools.cached_property
    def peak(self) -> Peak:
        """The highest requested, allocated and reserved bytes, and where in the run the first of them falls."""
        if not self.events:
            return Peak(0, 0, 0, -1, "", 0, "", "")
        requested, allocated, reserved = self.usage
        top = max(requested)
        event = requested.index(top)
        op = self.op_at(event)
        phase = self.phase_at(event)
        return Peak(
            top,
            max(allocated),
            max(reserved),
            event,
            phase.name,
            phase.step,
            op.name if op else "",
            op.module if op else "",
        )

    @functools.cached_property
    def after_load(self) -> Usage:
        """Memory when the first phase (`load`) ended: the model on the card, nothing run."""
        loads = [phase for phase in self.phases if phase.name == "load"]
        return self.usage_at(loads[-1].stop - 1) if loads else Usage(0, 0, 0)

    def usage_at(self, event: int) -> Usage:
        """Memory after event number `event`; nothing before the first."""
        return Usage(*(curve[event] for curve in self.usage)) if event >= 0 else Usage(0, 0, 0)

    def op_at(self, event: int) -> Op | None:
        """The op that ran at an event, if one did."""
        index = self.events.columns[2][event]
        return self.ops[index] if index >= 0 else None

    def phase_at(self, event: int) -> Phase:
        """The phase that an event falls in."""
        for phase in self.phases:
            if phase.start <= event < phase.stop:
                return phase
        return Phase("", 0, event, event + 1)

    def live_at(self, event: int) -> tuple[int, ...]:
        """Indices of the buffers alive after an event, in order of allocation."""
        lives = enumerate(zip(*self.spans, strict=True))
        return tuple(index for index, (start, stop) in lives if 0 <= start <= event < stop)

    @property
    def fits(self) -> bool:
        """Whether the run stayed within the card."""
        return Action.OUT_OF_MEMORY not in self.events.columns[0]

    def save(self, path: str | os.PathLike[str], *, force: bool = False) -> None:
        """Write it to a file, for `memgraph.load` and every command. Refuses to overwrite without `force`."""
        from memgraph.trace_file import save

        save(self, path, force=force)

    def self_check(self) -> None:
        """Check the conservation laws.

        Raises:
            InvariantError: naming the law that is broken and where.
        """
        from memgraph.conservation import check

        check(self)


def _summed(changes: Iterable[int]) -> array[int]:
    return array("q", accumulate(changes))
