"""A prediction against a recording: which allocation is which, what differs, and what that does to the peak."""

from __future__ import annotations

from array import array
from bisect import bisect_right
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

from memgraph.analyze.align import Gap, Stretch, align, gaps
from memgraph.analyze.attribution import starred
from memgraph.analyze.bands import short_op
from memgraph.gpu.allocator import NEWEST, Allocator, Block
from memgraph.trace import Action, Op, Trace, Usage

KINDS = ("requested", "allocated", "reserved")


class Figure(NamedTuple):
    """One peak, predicted and measured. Bytes."""

    predicted: int
    measured: int

    @property
    def ratio(self) -> float:
        """Predicted over measured; 1 if both are nothing."""
        return self.predicted / self.measured if self.measured else float(not self.predicted) or float("inf")


class PhaseCount(NamedTuple):
    """Allocations of one phase of the prediction, and how many of them the recording has to the byte."""

    name: str
    step: int
    predicted: int
    matched: int


class Difference(NamedTuple):
    """What differs, for one op."""

    kind: str
    """`missing`: recorded and not predicted; `extra`: predicted and not recorded; `size`: of another size;
    `lifetime`: there longer or shorter."""
    op: str
    """The op that it belongs to; of a missing allocation the one that was predicted to run there."""
    module: str
    number: int
    """Of allocations."""
    bytes: int
    """Predicted less measured, all together; of a lifetime the bytes that lived otherwise."""
    effect: int
    """Predicted less measured bytes at the moment of the recorded peak."""


class Comparison(NamedTuple):
    """All that `memgraph check` says."""

    predicted: int
    """Allocations."""
    measured: int
    matched: int
    phases: tuple[PhaseCount, ...]
    peaks: tuple[Figure, Figure, Figure]
    lifetimes: int
    """Matched allocations that were freed between other allocations than predicted."""
    differences: tuple[Difference, ...]
    """The largest effect on the peak first."""
    allocator: Usage
    """The recorded requests as the allocator model serves them: what is wrong here is the model's fault, not the
    capture's. Highest bytes."""


def compare(predicted: Trace, measured: Trace) -> Comparison:
    """Align two runs and say what differs. Linear in practice: a million allocations take seconds."""
    ours, theirs = _Run(predicted), _Run(measured)
    stretches = align(ours.sizes, theirs.sizes)
    pairs = _Pairs(stretches, len(theirs.sizes))
    matched = sum(stretch.length for stretch in stretches)
    lifetimes = list(_other_lives(ours, theirs, pairs))
    served = replayed(measured)
    return Comparison(
        len(ours.sizes), len(theirs.sizes), matched, _phases(ours, stretches), _peaks(predicted, measured, served),
        len(lifetimes), _differences(ours, theirs, stretches, pairs, lifetimes), served,
    )  # fmt: skip


class _Run:
    """One run by its allocations in order; the clock is how many there were."""

    def __init__(self, trace: Trace) -> None:
        self.trace = trace
        actions, buffers = trace.events.columns[:2]
        self.buffers = array("q", (b for a, b in zip(actions, buffers, strict=True) if a == Action.ALLOC))
        self.sizes = array("q", (trace.buffers[index].size for index in self.buffers))
        self.births = array("q", (place for place, action in enumerate(actions) if action == Action.ALLOC))
        place = {buffer: order for order, buffer in enumerate(self.buffers)}
        self.deaths = array("q", [len(self.sizes) + 1]) * len(self.sizes)
        """When each dies: after so many allocations; one more than there are if it never does."""
        clock = 0
        for action, buffer in zip(actions, buffers, strict=True):
            if action == Action.ALLOC:
                clock += 1
            elif action == Action.FREE:
                self.deaths[place[buffer]] = clock

    def op(self, order: int) -> Op | None:
        """The op of an allocation, if it is known."""
        index = self.trace.buffers[self.buffers[order]].op if order < len(self.buffers) else -1
        return self.trace.ops[index] if index >= 0 else None

    def phase(self, order: int) -> tuple[str, int]:
        phase = self.trace.phase_at(self.births[order])
        return phase.name, phase.step


class _Pairs:
    """Which allocation of the recording is which of the prediction, and what time there is what time here."""

    def __init__(self, stretches: Sequence[Stretch], measured: int) -> None:
        self._rights = [stretch.right for stretch in stretches]
        self._stretches = stretches
        self.measured = measured

    def clock(self, measured: int) -> int:
        """How many predicted allocations there were after so many recorded ones."""
        place = bisect_right(self._rights, measured - 1) - 1
        if place < 0:
            return 0
        left, right, length = self._stretches[place]
        return left + min(measured - right, length)

    def __iter__(self) -> Iterator[tuple[int, int]]:
        for left, right, length in self._stretches:
            yield from zip(range(left, left + length), range(right, right + length), strict=True)


def _phases(ours: _Run, stretches: Sequence[Stretch]) -> tuple[PhaseCount, ...]:
    """Phases are stretches of the run, so each is a range of allocations."""
    found = []
    for phase in ours.trace.phases:
        first, last = (bisect_right(ours.births, event - 1) for event in (phase.start, phase.stop))
        if last > first:
            hits = sum(max(0, min(last, s.left + s.length) - max(first, s.left)) for s in stretches)
            found.append(PhaseCount(phase.name, phase.step, last - first, hits))
    return tuple(found)


def _peaks(predicted: Trace, measured: Trace, served: Usage) -> tuple[Figure, Figure, Figure]:
    """torch's own statistics where the recording has them, for its blocks can be larger than what the history says. The
    hook has no blocks of PyTorch's: its requests as the model serves them."""
    told: dict[str, int] = measured.settings.get("statistics", {}).get("end", {})
    real = served if measured.settings.get("via") == "hook" else Usage(*measured.peak[:3])
    figures = [
        Figure(predicted.peak[:3][place], int(told.get(f"{kind}.peak", real[place])))
        for place, kind in enumerate(KINDS)
    ]  # fmt: skip
    return figures[0], figures[1], figures[2]


class _OtherLife(NamedTuple):
    order: int
    """Of the prediction."""
    mine: int
    theirs: int
    """When it dies, on the clock of the prediction."""


def _other_lives(ours: _Run, theirs: _Run, pairs: _Pairs) -> Iterator[_OtherLife]:
    end, their_end = len(ours.sizes) + 1, len(theirs.sizes) + 1
    for left, right in pairs:
        mine, death = ours.deaths[left], theirs.deaths[right]
        there = end if death == their_end else pairs.clock(death)
        if mine != there and not (mine >= end - 1 and there >= end - 1):  # at the end of the run all is one
            yield _OtherLife(left, mine, there)


def _differences(
    ours: _Run, theirs: _Run, stretches: Sequence[Stretch], pairs: _Pairs, lives: Iterable[_OtherLife]
) -> tuple[Difference, ...]:
    at = _peak_clock(theirs)
    here = pairs.clock(at)
    found: defaultdict[tuple[str, str, str], Counter[str]] = defaultdict(Counter)

    def add(kind: str, order: int, size: int, effect: int) -> None:
        op = ours.op(min(order, len(ours.sizes) - 1)) if ours.sizes else None
        name, module = (short_op(op.name), op.module) if op else ("outside any op", "")
        found[kind, name, starred(module)].update(count=1, bytes=size, effect=effect)

    for gap in gaps(stretches, len(ours.sizes), len(theirs.sizes)):
        for left, right in _paired(gap):
            size = ours.sizes[left] if left is not None else 0
            real = theirs.sizes[right] if right is not None else 0
            effect = size * _alive(ours, left, here) - real * _alive(theirs, right, at)
            kind = "extra" if right is None else "missing" if left is None else "size"
            add(kind, left if left is not None else gap.left.start, size - real, effect)
    for order, mine, there in lives:
        size = ours.sizes[order]
        effect = size * (int(order < here <= mine) - int(order < here <= there))
        add("lifetime", order, size, effect)
    rows = [Difference(*key, total["count"], total["bytes"], total["effect"]) for key, total in found.items()]
    return tuple(sorted(rows, key=lambda row: (-abs(row.effect), -abs(row.bytes), row.kind, row.op, row.module)))


def _paired(gap: Gap) -> Iterator[tuple[int | None, int | None]]:
    """As many of each: they stand for one another. Else each is on its own."""
    if len(gap.left) == len(gap.right):
        yield from zip(gap.left, gap.right, strict=True)
    else:
        yield from ((left, None) for left in gap.left)
        yield from ((None, right) for right in gap.right)


def _alive(run: _Run, order: int | None, clock: int) -> int:
    """Whether an allocation is there right after the last of so many."""
    return int(order is not None and order < clock <= run.deaths[order])


def _peak_clock(run: _Run) -> int:
    """How many allocations there were at the highest requested bytes."""
    return bisect_right(run.births, run.trace.peak.event)


def replayed(measured: Trace) -> Usage:
    """The recorded requests through the model of the caching allocator, as that torch has it. Highest bytes."""
    allocator = Allocator(2**62, torch=_version(measured.torch))
    blocks: dict[int, Block] = {}
    actions, buffers = measured.events.columns[:2]
    sizes = [buffer.size for buffer in measured.buffers]
    for action, buffer in zip(actions, buffers, strict=True):
        if action == Action.ALLOC:
            blocks[buffer] = allocator.malloc(sizes[buffer])
        elif action == Action.FREE:
            allocator.free(blocks.pop(buffer))
    return Usage(allocator.peak_requested, allocator.peak_allocated, allocator.peak_reserved)


def _version(text: str) -> tuple[int, int]:
    parts = text.split(".")[:2]
    return (int(parts[0]), int(parts[1])) if len(parts) == 2 and all(part.isdecimal() for part in parts) else NEWEST


def within(comparison: Comparison, tolerance: float) -> bool:
    """Whether all three peaks agree to that share."""
    return all(abs(figure.ratio - 1) <= tolerance for figure in comparison.peaks)
