"""The parts of a `Trace`: plain frozen data, no torch. All sizes are bytes; the clock of a trace is the index of its
events."""

from __future__ import annotations

import enum
import math
import re
from array import array
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple, overload

SCHEMA = 2
"""Version of the file format; a reader refuses a newer one. 2: streams, and blocks that wait for them."""


class Category(enum.StrEnum):
    """What a buffer is for. Known from what the run did with it, never guessed from a name."""

    PARAMETER = "parameters"
    BUFFER = "buffers"
    """Tensors of modules that are no parameters: running statistics, tables, masks."""
    GRADIENT = "gradients"
    OPTIMIZER = "optimizer state"
    ACTIVATION = "activations"
    CACHE = "KV cache"
    """Keys and values that are kept for the tokens to come."""
    INPUT = "inputs"
    TEMPORARY = "temporaries"
    WORKSPACE = "workspace"
    COMMUNICATION = "communication"
    """What collectives send and receive."""
    UNSHARDED = "unsharded parameters"
    """Parameters whole, gathered from their shards for as long as they are used."""
    UNKNOWN = "unknown"

    __hash__ = str.__hash__  # an enum's own is Python: it is asked for every tensor alive


class Action(enum.IntEnum):
    """What the allocator did."""

    ALLOC = 0
    FREE = 1
    SEGMENT_ALLOC = 2
    SEGMENT_FREE = 3
    OUT_OF_MEMORY = 4
    FREE_REQUESTED = 5
    """Freed, but another stream may still be at work on it (`Tensor.record_stream`): allocated no longer, and active
    until FREE_COMPLETED. FREE is both at once."""
    FREE_COMPLETED = 6


ENDS = (Action.FREE, Action.FREE_COMPLETED)
"""With which a buffer's bytes are there for others: its life ends."""


class Role(enum.StrEnum):
    """Why an op allocated a buffer."""

    OUTPUT = "output"
    TEMPORARY = "temporary"
    LIBRARY = "library"
    """A workspace that a library keeps, such as cuBLAS's."""

    __hash__ = str.__hash__


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
    stream: int = 0
    """That it was allocated on, and whose pool serves it: 0 is the default one, the others are 1, 2, … in the order in
    which they first allocated."""


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


class Held(NamedTuple):
    """Who holds buffers when a step ends: found by following references from the names of the program that runs."""

    name: str
    """As the user wrote it: `running`, `net.1.rv`, `history['loss']`, `total in step`."""
    kind: str
    """What that is: `variable`, `list`, `attribute`, `buffer`, `closure`, `hook`, `cache`, `traceback`, `cycle`, …"""
    graph: bool
    """Whether its autograd graph holds them, and not it itself."""
    source: str
    """The line that gave it what it holds, `file.py:16`; empty where that is not known."""
    moment: int
    """When it was looked for: how many steps, and calls of models, were over."""
    buffers: tuple[int, ...]
    """Indices into `Trace.buffers`."""


class Fact(NamedTuple):
    """What the program did that its allocations alone do not say."""

    kind: str
    """`attention by steps`: no fused kernel took it. `no gradient`: an optimizer was given parameters that never had
    one. `optimizer`: one stepped."""
    source: str
    """The line, `file.py:16`; empty where that is not known."""
    text: str
    """Why each kernel was passed over; the optimizer's class, and of one that stepped the forms that it has."""
    buffers: tuple[int, ...] = ()
    """Indices into `Trace.buffers` that it is about."""


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
    """What the tensors and workspaces asked for, until its bytes are there for others."""
    allocated: int
    """What the blocks given to them hold: `torch.cuda.memory_allocated`."""
    reserved: int
    """What the allocator took from the card: `torch.cuda.memory_reserved`. This decides what fits."""


class Peak(NamedTuple):
    """The highest figures of a run. They need not fall together; the moment named is that of `requested`."""

    requested: int
    allocated: int
    reserved: int
    event: int
    """Index of the event that reached the requested peak, -1 if nothing was allocated."""
    phase: str
    step: int
    op: str
    module: str
    active: int
    """What blocks hold that are allocated, or that other streams may still use."""


class Life(NamedTuple):
    """When a buffer lived, its bytes taken: events `start` ≤ t < `stop`; a buffer that outlives the run has
    `stop = len(events)`."""

    start: int
    stop: int
