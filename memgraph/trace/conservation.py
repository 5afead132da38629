"""The laws that hold for every trace, however it was made."""

from __future__ import annotations

import operator
from array import array
from collections import Counter
from collections.abc import Callable, Sequence
from itertools import compress

from memgraph.errors import InvariantError
from memgraph.trace import columns
from memgraph.trace.data import TraceData
from memgraph.trace.parts import ENDS, Action, Op
from memgraph.trace.rows import Ops, numbers

_NAMES_A_BUFFER = tuple(action in (Action.ALLOC, Action.FREE_REQUESTED, *ENDS) for action in Action)
"""Whether an event of each kind does; by its number."""


def check(trace: TraceData) -> None:
    """Check all of them.

    Raises:
        InvariantError: naming the law that is broken and where.
    """
    _check_references(trace)
    _check_lifetimes(trace)
    _check_conservation(trace)


def _check_lifetimes(trace: TraceData) -> None:
    """Every buffer is allocated once; every free has its alloc, before it; what waited for streams was freed before."""
    start, stop = trace.spans
    freed = len(stop) - _count(stop, len(trace.events))
    counts = trace.counts
    if _count(start, -1) or counts[Action.ALLOC] != len(start) or sum(counts[end] for end in ENDS) != freed:
        raise InvariantError(f"buffer {_culprit(trace)} is allocated or freed more than once, or never allocated")
    if not _below(start, stop, operator.lt):
        index = next(index for index, life in enumerate(trace.lives) if life.stop <= life.start)
        raise InvariantError(f"buffer {index} is freed before it is allocated")
    if trace.waits or counts[Action.FREE_COMPLETED]:
        _check_waiting(trace)


def _check_waiting(trace: TraceData) -> None:
    """A block waits once, after its alloc; it is returned after it waited, and by nothing else."""
    asked, done = int(Action.FREE_REQUESTED), int(Action.FREE_COMPLETED)
    actions, buffers = trace.events.columns[:2]
    if len(actions) >= columns.MANY and columns.waits_are_good(actions, buffers, trace.spans, asked, done):
        return
    state: dict[int, int] = {}
    before = {Action.ALLOC: -1, Action.FREE: Action.ALLOC, Action.FREE_REQUESTED: Action.ALLOC,
              Action.FREE_COMPLETED: Action.FREE_REQUESTED}  # fmt: skip
    for action, buffer in zip(actions, buffers, strict=True):
        if action in before:
            if state.get(buffer, -1) != before[Action(action)]:
                raise InvariantError(f"buffer {buffer} is returned without having waited for streams, or waits twice")
            state[buffer] = action


def _culprit(trace: TraceData) -> int:
    counts = Counter(zip(*trace.events.columns[:2], strict=True))
    wrong = (
        i for i in range(len(trace.buffers)) if counts[Action.ALLOC, i] != 1 or sum(counts[end, i] for end in ENDS) > 1
    )
    return next(wrong, -1)


def _check_conservation(trace: TraceData) -> None:
    """Live bytes are never negative; active ≥ requested and ≥ allocated; reserved ≥ active; what is live at the end
    adds up. Where no block waits for other streams, active is allocated."""
    wanted, allocated, taken = trace.usage
    held = trace.active
    if trace.waits and not (_within(allocated, 0, 2**63) and _below(allocated, held)):
        raise InvariantError("more bytes are allocated than are active, or fewer than none")
    if not _within(wanted, 0, 2**63) or not (_below(wanted, held) and _below(held, taken)):
        rows = enumerate(zip(wanted, held, taken, strict=True))
        event, (one, two, three) = next(row for row in rows if not 0 <= row[1][0] <= row[1][1] <= row[1][2])
        name = "active" if trace.waits else "allocated"
        raise InvariantError(f"event {event}: not 0 <= {one} requested <= {two} {name} <= {three} reserved")
    if trace.events:
        live = _total(trace.sizes, trace.live_at(trace.peak.event))
        if live != trace.peak.requested:
            raise InvariantError(f"the buffers alive at the peak hold {live} bytes, the peak is {trace.peak.requested}")


def _check_references(trace: TraceData) -> None:
    """Every index points at something."""
    ops, kinds = len(trace.ops), len(Action)
    actions, buffers = trace.events.columns[:2]
    if not _within(actions, 0, kinds):
        raise InvariantError("an event is of a kind that is not known")
    if not _names_are_good(actions, buffers, len(trace.buffers)):
        raise InvariantError("an event names a buffer that is not there")
    if not _within(numbers(trace.buffers, "op"), -1, ops):
        raise InvariantError("a buffer names an op that is not there")
    phases, forwards = (numbers(trace.ops, field) for field in ("phase", "forward"))
    if not (_within(phases, 0, len(trace.phases)) and _within(forwards, -1, ops)):
        raise InvariantError("an op names a phase or a forward op that is not there")
    if not _reads_are_good(trace.ops):
        raise InvariantError("an op reads the result of one that did not run before it")
    if not _within(trace.events.columns[2], -1, ops):
        raise InvariantError("an event names an op that is not there")
    about = [held.buffers for held in trace.held] + [fact.buffers for fact in trace.facts]
    if not all(_within(buffers, 0, len(trace.buffers)) for buffers in about):
        raise InvariantError("something holds a buffer, or is about one, that is not there")
    if not _within(trace.rounds, 0, len(trace.events) + 1):
        raise InvariantError("a model is called at an event that is not there")
    held, until = [row[0] for row in trace.late], [row[1] for row in trace.late]
    if not (_within(held, 0, len(trace.buffers)) and _within(until, 0, len(trace.events) + 1)):
        raise InvariantError("a library holds a buffer that is not there, or until an event that is not")
    borders = [0, *(border for phase in trace.phases for border in (phase.start, phase.stop)), len(trace.events)]
    if borders != sorted(borders):
        raise InvariantError("the phases are not stretches of the run in order")


def _names_are_good(actions: array[int], buffers: array[int], count: int) -> bool:
    """Whether the events that name a buffer name one that is there, and the others none."""
    if len(actions) >= columns.MANY:
        named, nameless = columns.named(actions, buffers, _NAMES_A_BUFFER)
    else:
        named = array("q", compress(buffers, map(_NAMES_A_BUFFER.__getitem__, actions)))
        nameless = buffers.count(-1)
    return _within(named, 0, count) and nameless == len(buffers) - len(named)


def _reads_are_good(ops: Sequence[Op]) -> bool:
    """Whether each reads the results of ops before it."""
    if isinstance(ops, Ops):
        nearest, farthest = ([of(each, default=1 - far) for each in ops.distances] for of, far in ((min, 0), (max, 1)))
        return ops.reads is None or columns.ordered(ops.reads, nearest, farthest)
    return all(0 <= read < index for index, op in enumerate(ops) for read in op.reads)


def _below(lower: array[int], upper: array[int], than: Callable[[int, int], bool] = operator.le) -> bool:
    if len(lower) >= columns.MANY:
        return columns.below(lower, upper, strictly=than is operator.lt)
    return all(map(than, lower, upper))


def _count(values: array[int], value: int) -> int:
    return columns.count(values, value) if len(values) >= columns.MANY else values.count(value)


def _total(values: array[int], rows: Sequence[int]) -> int:
    """Of those at some places: bytes that are alive at once, whose sum the curve of requested bytes holds."""
    return columns.total(values, rows) if len(rows) >= columns.MANY else sum(map(values.__getitem__, rows))


def _within(values: Sequence[int], low: int, high: int) -> bool:
    if isinstance(values, array) and len(values) >= columns.MANY:
        return columns.within(values, low, high)
    return not values or (min(values) >= low and max(values) < high)
