"""A prediction against a recording: which allocation is which, what differs, and what that does to the peak; and
whether it is the capture that is wrong or the model of the allocator."""

from __future__ import annotations

from array import array
from bisect import bisect_right
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from typing import NamedTuple

from memgraph.analyze.align import Gap, Stretch, align, gaps
from memgraph.analyze.attribution import starred
from memgraph.analyze.bands import short_op
from memgraph.analyze.blame import rule_of
from memgraph.analyze.served import Placed, placed, served, version_of
from memgraph.errors import UsageError
from memgraph.files.snapshot_file import rounded
from memgraph.gpu.allocator.caching import Ties
from memgraph.gpu.specs import find
from memgraph.trace import Action, Op, Role, Trace, Usage

KINDS = ("requested", "allocated", "reserved")
_NOT_CHOSEN = ("gpu", "memory", "statistics", "via", "hook", "alloc_conf")
"""Settings that say how a run was recorded, not what was run."""
_ALLOC, _FREE = int(Action.ALLOC), int(Action.FREE)


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
    """The op that it belongs to; of a missing allocation the one that the recording names, or else the one that was
    predicted to allocate last before it."""
    module: str
    rule: str
    """What decides such an allocation, and so is missing or wrong: `gpu/rules/reduce.py`, empty if it is not a
    matter of a rule."""
    number: int
    """Of allocations."""
    bytes: int
    """Predicted less measured, all together; of a lifetime the bytes that lived otherwise."""
    effect: int
    """Predicted less measured bytes at the moment of the recorded peak."""


class Refusal(NamedTuple):
    """Where a run was out of memory."""

    allocation: int
    """How many were served before it."""
    size: int
    """Bytes that were asked for."""
    op: str
    phase: str
    step: int

    def is_that_of(self, other: Refusal) -> bool:
        """Of the same allocation. torch's history tells its size rounded up to 512 bytes."""
        return self.allocation == other.allocation and rounded(self.size) == rounded(other.size)


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
    placed: Placed | None
    """How many blocks the model puts where PyTorch did, given the recorded segments; None where that cannot be
    asked."""
    refused: tuple[Refusal | None, Refusal | None]
    """Where the prediction and the recording were out of memory."""
    versions: tuple[str, str] | None
    """Of torch, if the two allocators choose among equal blocks differently."""
    settings: tuple[tuple[str, str, str], ...]
    """What was chosen otherwise: its name, as predicted, as measured."""


def compare(predicted: Trace, measured: Trace) -> Comparison:
    """Align two runs and say what differs. Linear in practice: a million events take seconds.

    Of a run that ended out of memory, what is predicted beyond is left out.
    """
    refused = _refusal(predicted, measured), _refusal(measured, measured)
    predicted = _as_far_as(predicted, measured)
    ours, theirs = _Run(predicted), _Run(measured)
    stretches = align(ours.sizes, theirs.sizes)
    pairs = _Pairs(stretches, len(theirs.sizes))
    matched = sum(stretch.length for stretch in stretches)
    lifetimes = list(_other_lives(ours, theirs, pairs))
    model, where = served(measured), placed(measured)
    return Comparison(
        len(ours.sizes), len(theirs.sizes), matched, _phases(ours, stretches),
        _peaks(predicted, measured, model, where), len(lifetimes),
        _differences(ours, theirs, stretches, pairs, lifetimes), model, where, refused,
        _versions(predicted, measured), tuple(_other_settings(predicted, measured)),
    )  # fmt: skip


def _other_settings(predicted: Trace, measured: Trace) -> Iterator[tuple[str, str, str]]:
    """Only of what both say; and the card, where both name one of the catalogue."""
    for name, chosen in predicted.settings.items():
        if name in measured.settings and name not in _NOT_CHOSEN and measured.settings[name] != chosen:
            yield name, str(chosen), str(measured.settings[name])
    ours, theirs = _card(predicted.gpu), _card(measured.gpu)
    if ours and theirs and ours != theirs:
        yield "gpu", ours, theirs


def _card(name: str) -> str:
    try:
        return find(name).name
    except UsageError:
        return ""


def _versions(predicted: Trace, measured: Trace) -> tuple[str, str] | None:
    ours, theirs = version_of(predicted.torch), version_of(measured.torch)
    same = ours is None or theirs is None or Ties.of(ours) is Ties.of(theirs)
    return None if same else (predicted.torch, measured.torch)


def _refusal(trace: Trace, measured: Trace) -> Refusal | None:
    """The hook refuses by requested bytes, and so a prediction is asked by them."""
    hooks = [one.settings.get("via") == "hook" for one in (trace, measured)]
    if hooks == [False, True] and not measured.fits:
        return _refusal_by_requests(trace, measured.memory)
    actions = trace.events.columns[0]
    if Action.OUT_OF_MEMORY not in actions:
        return None
    place = actions.index(Action.OUT_OF_MEMORY)
    phase, op = trace.phase_at(place), trace.op_at(place)
    count = actions[:place].count(Action.ALLOC)
    return Refusal(count, trace.events[place].size, op.name if op else "", phase.name, phase.step)


def _refusal_by_requests(trace: Trace, limit: int) -> Refusal | None:
    place = next((place for place, held in enumerate(trace.usage[0]) if held > limit), None)
    if place is None:
        return None
    phase, op = trace.phase_at(place), trace.op_at(place)
    count = trace.events.columns[0][:place].count(Action.ALLOC)
    return Refusal(count, trace.buffers[trace.events[place].buffer].size, op.name if op else "", phase.name, phase.step)


def _as_far_as(predicted: Trace, measured: Trace) -> Trace:
    """A prediction goes on when the card is full, and a script does not: as many allocations as were recorded, if the
    recording ended so."""
    actions = measured.events.columns[0]
    if measured.fits or Action.ALLOC in actions[actions.index(Action.OUT_OF_MEMORY) :]:
        return predicted
    births = _births(predicted)
    count = actions.count(Action.ALLOC)
    stop = births[count] if count < len(births) else len(predicted.events)
    while stop and predicted.events.columns[0][stop - 1] == Action.SEGMENT_ALLOC:  # taken for what was refused
        stop -= 1
    return replace(predicted, events=predicted.events[:stop])


def _births(trace: Trace) -> array[int]:
    return array("q", (place for place, action in enumerate(trace.events.columns[0]) if action == _ALLOC))


class _Run:
    """One run by its allocations in order; the clock is how many there were."""

    def __init__(self, trace: Trace) -> None:
        self.trace = trace
        actions, buffers = trace.events.columns[:2]
        self.births = _births(trace)
        self.buffers = array("q", map(buffers.__getitem__, self.births))
        self.sizes = array("q", (trace.buffers[index].size for index in self.buffers))
        place = array("q", [0]) * len(trace.buffers)
        for order, buffer in enumerate(self.buffers):
            place[buffer] = order
        self.deaths = array("q", [len(self.sizes) + 1]) * len(self.sizes)
        """When each dies: after so many allocations; one more than there are if it never does."""
        clock = 0
        for action, buffer in zip(actions, buffers, strict=True):
            if action == _ALLOC:
                clock += 1
            elif action == _FREE:
                self.deaths[place[buffer]] = clock

    def op(self, order: int) -> Op | None:
        """The op of an allocation, if it is known."""
        index = self.trace.buffers[self.buffers[order]].op if 0 <= order < len(self.buffers) else -1
        return self.trace.ops[index] if index >= 0 else None

    def role(self, order: int) -> Role:
        return self.trace.buffers[self.buffers[order]].role

    def maker(self, order: int) -> tuple[Op | None, Role]:
        """A recording does not say whether an op's output or something besides it was allocated."""
        known = self.trace.origin == "predicted"
        return self.op(order), self.role(order) if known else Role.TEMPORARY

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


def _peaks(predicted: Trace, measured: Trace, model: Usage, where: Placed | None) -> tuple[Figure, Figure, Figure]:
    """torch's own statistics where the recording has them, for its blocks can be larger than what the history says;
    else the model's blocks, if it put every one where PyTorch did. The hook has no blocks of PyTorch's: its requests as
    the model serves them."""
    told: dict[str, int] = measured.settings.get("statistics", {}).get("end", {})
    real = model if measured.settings.get("via") == "hook" else Usage(*measured.peak[:3])
    if where is not None and where.same == where.blocks:
        real = real._replace(allocated=where.allocated)
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
    found: defaultdict[tuple[str, str, str, str], Counter[str]] = defaultdict(Counter)

    def add(kind: str, op: Op | None, role: Role, size: int, effect: int) -> None:
        name, module = (short_op(op.name), op.module) if op else ("outside any op", "")
        rule = rule_of(kind, op, role)
        found[kind, name, starred(module), rule].update(count=1, bytes=size, effect=effect)

    for gap in gaps(stretches, len(ours.sizes), len(theirs.sizes)):
        for left, right in _paired(gap):
            size = ours.sizes[left] if left is not None else 0
            real = theirs.sizes[right] if right is not None else 0
            effect = size * _alive(ours, left, here) - real * _alive(theirs, right, at)
            kind = "extra" if right is None else "missing" if left is None else "size"
            if left is not None:
                add(kind, ours.op(left), ours.role(left), size - real, effect)
            else:
                op, role = theirs.maker(right or 0)
                add(kind, op or ours.op(gap.left.start - 1), role, size - real, effect)
    for order, mine, there in lives:
        size = ours.sizes[order]
        effect = size * (int(order < here <= mine) - int(order < here <= there))
        add("lifetime", ours.op(order), ours.role(order), size, effect)
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


def within(comparison: Comparison, tolerance: float) -> bool:
    """Whether all three peaks agree to that share, and neither run is out of memory where the other is not."""
    return refused_alike(comparison) and all(abs(figure.ratio - 1) <= tolerance for figure in comparison.peaks)


def refused_alike(comparison: Comparison) -> bool:
    """Whether both fit, or both are refused the same allocation."""
    predicted, measured = comparison.refused
    if predicted is None or measured is None:
        return predicted is measured
    return predicted.is_that_of(measured)
