"""What a run keeps from step to step: nothing more after some step, or more each step, of which kinds, and who holds
it.

A kind grows if more of its buffers are alive at the end of the run's steps than halfway, and halfway more than at the
start: a queue of fixed length, a cache that is filled once and state that is made late do not grow so. What grows
without more buffers, such as a tensor to which results are concatenated, grows at every step and is made of the one
before it.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections import Counter, defaultdict
from collections.abc import Hashable, Iterator, Sequence
from itertools import chain, pairwise
from typing import NamedTuple

from memgraph.analyze.attribution import describe, starred
from memgraph.analyze.uses import makers
from memgraph.trace import Action, Buffer, Category, Held, Op, Trace
from memgraph.trace.alike import Alike, distinct
from memgraph.trace.rows import numbers

FEWEST = 3
"""Steps from which on a verdict is given: with two, what is kept for one step cannot be told from what is kept."""
_FAR = 100_000
"""A run that would fill the card in more steps than this is not told that it grows, unless it shows at the peak."""
_SHARE = 0.01
SMALLEST = 512
"""Bytes of the allocator's smallest block (`kMinBlockSize`, c10/core/AllocatorConfig.h): a figure, of any type."""
_LATE = (Category.OPTIMIZER, Category.GRADIENT)
_TOGETHER = 16
"""Tensors that one line may append to at each step."""
_NO_OP = Op("", -1)


class Kind(NamedTuple):
    """Buffers that are kept, of one op at one line."""

    what: str
    """`relu in 1, train.py:9`."""
    source: str
    count: int  # type: ignore[assignment]  # as `Consumer.count`
    """How many there are at the end."""
    bytes: int
    """Of all of them."""
    rate: float
    """Bytes that a step adds."""
    held: Held | None
    """Who holds most of them."""
    buffers: tuple[int, ...]


class Steps(NamedTuple):
    """What a run keeps from step to step."""

    count: int  # type: ignore[assignment]  # as above
    """Steps that were completed, or calls of a model where nothing is trained."""
    unit: str
    """`step` or `call`."""
    ends: tuple[int, ...]
    """The last event of each."""
    kinds: tuple[Kind, ...]
    """What grows, the fastest first."""
    steady: int
    """After which step neither what is kept nor the peak rises any more; 0 if they still do at the last."""
    little: tuple[Kind, ...] = ()
    """What grows where that is too little to be told as growing."""

    @property
    def rate(self) -> int:
        """Bytes that a step adds."""
        return round(sum(kind.rate for kind in self.kinds))

    @property
    def slow(self) -> int:
        """Bytes that a step adds of what is too little."""
        return round(sum(kind.rate for kind in self.little))

    def left(self, trace: Trace) -> int | None:
        """How many more steps fit; None if nothing grows, or it does not fit already."""
        room = trace.memory - trace.peak.reserved
        return room // self.rate if self.rate > 0 and room >= 0 and trace.fits else None


def steps(trace: Trace) -> Steps | None:
    """What the run keeps; None where it has too few steps to say so."""
    of_calls = (*calls(trace), without_steps(trace))
    found = [_judged(trace, "step", step_ends(trace)), *(_judged(trace, "call", ends) for ends in of_calls)]
    known = [one for one in found if one is not None]
    return max(known, key=lambda one: (bool(one.kinds), one.unit == "step", one.rate)) if known else None


def _judged(trace: Trace, unit: str, ends: Sequence[int]) -> Steps | None:
    if len(ends) < FEWEST:
        return None
    found = _without_late_state(trace, _without_trained(trace, ends, list(_growing(trace, ends))))
    kinds = tuple(sorted((kind for kind in found if unit == "step" or _of_most(trace, ends, kind)),
                         key=lambda kind: -kind.rate))  # fmt: skip
    rate = sum(kind.rate for kind in kinds)
    far = not trace.memory or rate * _FAR < trace.memory  # where the card is not told, what shows counts alone
    little: tuple[Kind, ...] = ()
    if far and rate * len(ends) < _SHARE * trace.peak.requested:
        told = unit == "step" and any(_of_every_step(trace, ends, kind) for kind in kinds)
        kinds, little = (kinds, ()) if told else ((), kinds)
    steady = 0 if kinds else _steady(trace, ends)
    return Steps(len(ends), unit, tuple(ends), kinds, steady, () if steady else little)


def _of_most(trace: Trace, ends: Sequence[int], kind: Kind) -> bool:
    """Whether something of most calls is still there, or of one what all before it were made into: a model that is
    called for each term of a sum leaves the terms so far, and no more."""
    born = {bisect_left(ends, trace.spans[0][index]) for index in kind.buffers}
    return len(born) == 1 or 2 * len(born) >= len(ends)


def _of_every_step(trace: Trace, ends: Sequence[int], kind: Kind) -> bool:
    """Whether one of each step is still there, and more than figures: then it is a leak however slow it is."""
    larger = [index for index in kind.buffers if trace.sizes[index] > SMALLEST]
    born = {bisect_left(ends, trace.spans[0][index]) for index in larger}
    return len(ends) > FEWEST and born >= set(range(1, len(ends)))


def step_ends(trace: Trace) -> list[int]:
    """The last event of each step that was completed: one follows it, or its optimizer is the last to run."""
    ends: dict[int, int] = {}
    for phase in trace.phases:
        if phase.step:
            ends[phase.step] = phase.stop - 1
    last = trace.phases[-1] if trace.phases else None
    return [end for step, end in ends.items() if last and (step < last.step or last.name == "optimizer") and end >= 0]


def calls(trace: Trace) -> Iterator[list[int]]:
    """Where calls of models end, in each stretch of a forward through which no backward goes."""
    if len(trace.rounds) <= FEWEST:
        return
    through = _differentiated(trace)
    ops = trace.events.columns[2]
    rounds = sorted(trace.rounds)
    for phase in trace.phases:
        if phase.name in ("forward", "recorded", "load"):  # a recording may not tell them apart
            made = rounds[bisect_left(rounds, phase.start) : bisect_left(rounds, phase.stop)]
            spans = [(ops[one], ops[other]) for one, other in pairwise(made)]
            plain = [not _any_between(through, one, other) for one, other in spans]
            if len(made) > FEWEST and sum(plain) >= len(plain) - 1:  # the last may be a step's own forward
                yield [event - 1 for event, fine in zip(made[1:], plain, strict=True) if fine]


def without_steps(trace: Trace) -> list[int]:
    """Where calls of a model end that is differentiated and that no optimizer steps: gradients alone are wanted."""
    stepped = any(phase.name == "optimizer" for phase in trace.phases)
    if trace.origin == "measured" or stepped or len(trace.rounds) <= FEWEST:
        return []
    through = [phase.start for phase in trace.phases if phase.name == "backward"]
    each = all(_any_between(through, one, other) for one, other in pairwise(trace.rounds))
    return [event - 1 for event in trace.rounds[1:]] if each else []


def _differentiated(trace: Trace) -> list[int]:
    return [op for op in distinct(numbers(trace.ops, "forward")) if op >= 0]


def _any_between(places: Sequence[int], low: int, high: int) -> bool:
    return bisect_right(places, low) < bisect_right(places, high)


def _growing(trace: Trace, ends: Sequence[int]) -> Iterator[Kind]:
    back = (len(ends) - 1) // 2
    moments = [ends[-1 - 2 * back], ends[-1 - back], ends[-1]]
    counts: list[Counter[Hashable]] = [Counter() for _ in moments]
    sizes: list[Counter[Hashable]] = [Counter() for _ in moments]
    members: defaultdict[Hashable, list[Alike]] = defaultdict(list)
    for place, moment in enumerate(moments):
        for alike in trace.alike(kept_at(trace, moment)):
            kind = _kept_as(alike.buffer, alike.op)
            counts[place][kind] += alike.count
            sizes[place][kind] += alike.bytes
            if place == len(moments) - 1:
                members[kind].append(alike)
    for kind, kinds in members.items():
        numbers, amounts = ([part[kind] for part in three] for three in (counts, sizes))
        more = numbers[0] < numbers[1] < numbers[2] and amounts[0] < amounts[1] < amounts[2]
        if more or (numbers[0] == numbers[1] == numbers[2] and _accumulates(trace, ends, kinds)):
            yield _row(trace, kinds, (amounts[2] - amounts[0]) / (2 * back))


def kept_at(trace: Trace, event: int) -> Sequence[int]:
    """What is alive after an event and is not let go of: what waits for other streams alone is nobody's any more."""
    live = trace.live_at(event)
    buffers = trace.events.columns[1]
    gone = {buffers[place] for place in trace.places(Action.FREE_REQUESTED) if place <= event} if trace.waits else ()
    return [index for index in live if index not in gone] if gone else live


def _without_trained(trace: Trace, ends: Sequence[int], kinds: list[Kind]) -> list[Kind]:
    """A model that is made larger as it trains has more parameters and keeps none: the last step reads all of them."""
    more = [kind for kind in kinds if trace.buffers[kind.buffers[0]].category is Category.PARAMETER]
    if not more:
        return kinds
    made, ops = makers(trace), trace.events.columns[2]
    first, last = (next((op for op in reversed(ops[: end + 1]) if op >= 0), 0) for end in ends[-2:])
    read = {made[other] for op in range(first, last + 1) for other in trace.ops[op].reads}
    trained = [kind for kind in more if all(trace.buffers[index].op in read for index in kind.buffers)]
    return [kind for kind in kinds if kind not in trained]


def _without_late_state(trace: Trace, kinds: Sequence[Kind]) -> list[Kind]:
    """A parameter's gradient, and its state in an optimizer, are made when its first gradient comes, which is no growth
    unless there are more parameters too, or more optimizers: then there is more of it than parameters of its name."""
    of = {kind: trace.buffers[kind.buffers[0]] for kind in kinds}
    more = any(buffer.category is Category.PARAMETER for buffer in of.values())
    if more or not any(buffer.category in _LATE for buffer in of.values()):
        return list(kinds)
    names = Counter(buffer.name for buffer in trace.buffers if buffer.category is Category.PARAMETER)
    return [kind for kind in kinds if of[kind].category not in _LATE
            or kind.count > names[of[kind].name.partition(" of ")[2]] > 0]  # fmt: skip


def kind_kept(trace: Trace, index: int) -> Hashable:
    """What buffers of several steps have in common, whatever their sizes: the op and its line, or a name."""
    buffer = trace.buffers[index]
    return _kept_as(buffer, trace.ops[buffer.op] if buffer.op >= 0 else None)


def kinds_kept(alike: Sequence[Alike]) -> dict[Hashable, list[Alike]]:
    """Likewise of many."""
    found: dict[Hashable, list[Alike]] = {}
    for one in alike:
        found.setdefault(_kept_as(one.buffer, one.op), []).append(one)
    return found


def _kept_as(buffer: Buffer, op: Op | None) -> Hashable:
    if buffer.name:
        return buffer.category, buffer.name
    op = op or _NO_OP
    return buffer.role, op.name, starred(op.module), op.source, buffer.dtype, op.forward >= 0


def _accumulates(trace: Trace, ends: Sequence[int], kinds: Sequence[Alike]) -> bool:
    """Whether each buffer is made, at every step, of the one before it and larger."""
    rows = rows_of(kinds)
    if len(rows) > _TOGETHER or len(ends) <= FEWEST:
        return False
    return all(_grows_from_before(trace, len(ends) - 2, trace.buffers[index].op) for index in rows)


def _grows_from_before(trace: Trace, times: int, made: int) -> bool:
    for _ in range(times):
        before = [op for op in (trace.ops[made].reads if made >= 0 else ()) if _same_line(trace, op, made)]
        if not before or trace.ops[before[0]].outputs[0].bytes >= trace.ops[made].outputs[0].bytes:
            return False
        made = before[0]
    return True


def _same_line(trace: Trace, one: int, other: int) -> bool:
    return trace.ops[one].name == trace.ops[other].name and trace.ops[one].source == trace.ops[other].source


def _row(trace: Trace, kinds: Sequence[Alike], rate: float) -> Kind:
    buffers, size = rows_of(kinds), sum(kind.bytes for kind in kinds)
    source = trace.ops[op].source if (op := trace.buffers[buffers[-1]].op) >= 0 else ""
    return Kind(in_words(trace, buffers), source, len(buffers), size, rate, holder(trace, buffers), buffers)


def rows_of(kinds: Sequence[Alike]) -> tuple[int, ...]:
    """Their buffers, in order of allocation."""
    return tuple(sorted(chain.from_iterable(kind.rows for kind in kinds)))


def in_words(trace: Trace, buffers: Sequence[int]) -> str:
    """What buffers of one kind are: `relu in 1, train.py:9`."""
    last = trace.buffers[buffers[-1]]
    op = trace.ops[last.op] if last.op >= 0 else _NO_OP
    modules = {kind.op.module for kind in trace.alike(buffers) if kind.op}
    return describe(last, op, layered=len(modules) > 1).removeprefix("output of ")


def holder(trace: Trace, buffers: Sequence[int]) -> Held | None:
    """Who holds most of these, of several the one that has the oldest, for the newest have names of their own, and so
    has what a call before these left; or who held others of their kind when that was looked for last."""
    by_buffer = {buffer: held for held in trace.held for buffer in held.buffers}  # the last of each
    found = [by_buffer[index] for index in buffers if index in by_buffer]
    times = Counter(held.name for held in found)
    if found:
        return max(found, key=lambda held: times[held.name])
    kind = kind_kept(trace, buffers[-1])
    alike = [held for held in trace.held if any(kind_kept(trace, index) == kind for index in held.buffers)]
    return max(alike, key=lambda held: held.moment, default=None)


def _steady(trace: Trace, ends: Sequence[int]) -> int:
    """The first step whose figures no later one exceeds, if there is one before the last; else 0."""
    requested, _, reserved = trace.usage
    spans = [(start, end + 1) for start, end in zip([0, *(end + 1 for end in ends)], ends, strict=False)]
    kept = [requested[end] for end in ends]
    tops = [trace.highest(requested, *span) for span in spans]
    taken = [trace.highest(reserved, *span) for span in spans]
    for step in range(1, len(ends)):
        if all(max(row[step:]) <= max(row[:step]) for row in (kept, tops, taken)):
            return step
    return 0
