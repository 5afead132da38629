"""What one run did to GPU memory, and what follows from it alone: curves, lives, the peak."""

from __future__ import annotations

import functools
from array import array
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import accumulate
from typing import Any

from memgraph.trace import columns
from memgraph.trace.alike import Alike, alike, kinds_of_buffers, kinds_of_ops
from memgraph.trace.parts import (
    ENDS,
    SCHEMA,
    Action,
    Buffer,
    Compilation,
    Events,
    Fact,
    Held,
    Life,
    Op,
    Peak,
    Phase,
    Usage,
)
from memgraph.trace.rows import numbers

_HELD = (1, -1, 0, 0, 0, -1, 0)
"""What each action does to the bytes that tensors hold, to those that are active, and to those taken from the card; by
its number."""
_ACTIVE = (1, -1, 0, 0, 0, 0, -1)
_TAKEN = (0, 0, 1, -1, 0, 0, 0)


@dataclass(frozen=True)
class TraceData:
    """One run's memory: what was recorded, and the curves and moments that follow from it. `Trace` is one that can
    check and save itself."""

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
    ops: Sequence[Op]
    """A tuple, or columns of which rows are made as they are asked for: `memgraph.trace.rows`. Likewise `buffers`."""
    buffers: Sequence[Buffer]
    events: Events
    phases: tuple[Phase, ...]
    assumptions: tuple[str, ...] = ()
    """What was taken for granted, a sentence each, with its source line where it has one."""
    unknown_ops: tuple[str, ...] = ()
    """Ops whose inner allocations are not known; only their outputs are counted."""
    schema: int = field(default=SCHEMA)
    compilation: Compilation | None = None
    """What `torch.compile` did; None where nothing was compiled."""
    held: tuple[Held, ...] = ()
    """Who held what at the ends of steps, for those buffers that were looked for."""
    facts: tuple[Fact, ...] = ()
    """What else is known of the program."""
    rounds: tuple[int, ...] = ()
    """Indices of the events at which the first model of a forward was called, and called again; empty where that is not
    known."""
    callers: tuple[tuple[str, str], ...] = ()
    """Lines of installed libraries, and of each the line of the program itself from which it was first reached."""
    late: tuple[tuple[int, int], ...] = ()
    """Buffers that a library may hold for longer than the program does, and the number of events by which it has let
    go of each. In `events` they die with the program's own."""

    @functools.cached_property
    def lives(self) -> tuple[Life, ...]:
        """The life of each buffer, in the order of `buffers`."""
        return tuple(map(Life, *self.spans))

    @functools.cached_property
    def spans(self) -> tuple[array[int], array[int]]:
        """`lives` as two columns, starts and stops, for loops that cannot afford an object a row."""
        alloc, ends = int(Action.ALLOC), tuple(map(int, ENDS))
        actions, buffers = self.events.columns[:2]
        if len(actions) >= columns.MANY:
            return columns.spans(actions, buffers, len(self.buffers), alloc, ends)
        start, stop = array("q", [-1]) * len(self.buffers), array("q", [len(self.events)]) * len(self.buffers)
        for index, (action, buffer) in enumerate(zip(actions, buffers, strict=True)):
            if action == alloc:
                start[buffer] = index
            elif action in ends:
                stop[buffer] = index
        return start, stop

    def life(self, buffer: int) -> Life:
        """As `lives` has it, of one alone."""
        return Life(self.spans[0][buffer], self.spans[1][buffer])

    @functools.cached_property
    def sizes(self) -> array[int]:
        """Requested bytes of each buffer."""
        return numbers(self.buffers, "size")

    @functools.cached_property
    def kinds_of_ops(self) -> array[int]:
        """For each op the first that is like it: `memgraph.trace.alike`."""
        return kinds_of_ops(self.ops)

    @functools.cached_property
    def kinds_of_buffers(self) -> array[int]:
        """Likewise; what is made of a kind's texts and shapes is made once."""
        return kinds_of_buffers(self.buffers, self.kinds_of_ops)

    @functools.cached_property
    def usage(self) -> tuple[array[int], array[int], array[int]]:
        """Requested, allocated and reserved bytes after each event: three arrays as long as `events`."""
        actions, buffers, _, _, sizes = self.events.columns
        if len(actions) >= columns.MANY and (found := self._usage_of_many()):
            return found
        wanted = [*self.sizes, 0]  # the last where an event names no buffer
        requested = (wanted[buffer] * _ACTIVE[action] for action, buffer in zip(actions, buffers, strict=True))
        allocated = (size * _HELD[action] for action, size in zip(actions, sizes, strict=True))
        reserved = (size * _TAKEN[action] for action, size in zip(actions, sizes, strict=True))
        return _summed(requested), _summed(allocated), _summed(reserved)

    def _usage_of_many(self) -> tuple[array[int], array[int], array[int]] | None:
        """`usage`, or None if a sum may be too large for its column."""
        actions, buffers, _, _, sizes = self.events.columns
        wanted = columns.of_buffers(self.sizes, buffers)
        requested = columns.summed(actions, wanted, _ACTIVE)
        allocated, reserved = (columns.summed(actions, sizes, signs) for signs in (_HELD, _TAKEN))
        return (requested, allocated, reserved) if requested and allocated and reserved else None

    @functools.cached_property
    def active(self) -> array[int]:
        """Bytes after each event of the blocks that are allocated, or that other streams may still use."""
        actions, sizes = self.events.columns[0], self.events.columns[4]
        if not self.waits:
            return self.usage[1]
        many = columns.summed(actions, sizes, _ACTIVE) if len(actions) >= columns.MANY else None
        return many or _summed(size * _ACTIVE[action] for action, size in zip(actions, sizes, strict=True))

    @functools.cached_property
    def counts(self) -> tuple[int, ...]:
        """How many events there are of each action, by its number."""
        actions = self.events.columns[0]
        counted = functools.partial(columns.count, actions) if len(actions) >= columns.MANY else actions.count
        return tuple(map(counted, Action))

    def places(self, *actions: Action) -> Sequence[int]:
        """The events of some actions, by their numbers."""
        happened = self.events.columns[0]
        if len(happened) >= columns.MANY:
            return columns.those(happened, actions)
        return [place for place, action in enumerate(happened) if action in actions]

    @property
    def waits(self) -> bool:
        """Whether blocks waited for other streams."""
        return self.counts[Action.FREE_REQUESTED] > 0

    @functools.cached_property
    def peak(self) -> Peak:
        """The highest requested, allocated and reserved bytes, and where in the run the first of them falls."""
        if not self.events:
            return Peak(0, 0, 0, -1, "", 0, "", "", 0)
        requested, allocated, reserved = self.usage
        top = self.highest(requested)
        event = requested.index(top)
        op = self.op_at(event)
        phase = self.phase_at(event)
        return Peak(
            top,
            self.highest(allocated),
            self.highest(reserved),
            event,
            phase.name,
            phase.step,
            op.name if op else "",
            op.module if op else "",
            self.highest(self.active),
        )

    @staticmethod
    def highest(curve: array[int], start: int = 0, stop: int | None = None) -> int:
        """The most bytes of a curve, or of a stretch of it; 0 of none."""
        if len(curve) >= columns.MANY:
            return columns.highest(curve, start, stop)
        return max(curve[start:stop], default=0)

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

    def live_at(self, event: int) -> Sequence[int]:
        """Indices of the buffers alive after an event, in order of allocation: a tuple, or a column of very many. The
        last answer is kept: most ask for the peak."""
        last = self._last_alive
        if event not in last:
            last.clear()
            last[event] = self._alive(event)
        return last[event]

    @functools.cached_property
    def _last_alive(self) -> dict[int, Sequence[int]]:
        return {}

    def alike_at(self, event: int) -> tuple[Alike, ...]:
        """What is alive after an event, equal buffers together; the last answer is kept likewise."""
        last = self._last_alike
        if event not in last:
            last.clear()
            last[event] = self.alike(self.live_at(event))
        return last[event]

    @functools.cached_property
    def _last_alike(self) -> dict[int, tuple[Alike, ...]]:
        return {}

    def alike(self, rows: Sequence[int]) -> tuple[Alike, ...]:
        """Some buffers, equal ones together."""
        return alike(rows, self.ops, self.buffers, self.sizes)

    def _alive(self, event: int) -> Sequence[int]:
        if len(self.events) >= columns.MANY:
            return columns.alive(*self.spans, event)
        lives = enumerate(zip(*self.spans, strict=True))
        return tuple(index for index, (start, stop) in lives if 0 <= start <= event < stop)

    @property
    def fits(self) -> bool:
        """Whether the run stayed within the card."""
        return not self.counts[Action.OUT_OF_MEMORY]


def _summed(changes: Iterable[int]) -> array[int]:
    return array("q", accumulate(changes))
