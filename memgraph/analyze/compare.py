"""A prediction against a recording: which allocation is which, what differs, and what that does to the peak; and
whether it is the capture that is wrong or the model of the allocator."""

from __future__ import annotations

from bisect import bisect_right
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

from memgraph.analyze.align import Gap, Stretch, align, gaps
from memgraph.analyze.attribution import starred
from memgraph.analyze.bands import short_op
from memgraph.analyze.blame import rule_of
from memgraph.analyze.changes import other_settings
from memgraph.analyze.paired import OtherLife, Pairs, Run, other_lives
from memgraph.analyze.refusal import Refusal, as_far_as, refusal
from memgraph.analyze.served import Placed, placed, served, version_of
from memgraph.analyze.streams import Bounds, bounds, uses_streams
from memgraph.analyze.window import beside
from memgraph.gpu.allocator.ties import Ties
from memgraph.trace import Op, Role, Trace, Usage

KINDS = ("requested", "allocated", "reserved", "active")
"""The last only where blocks waited for other streams; else it is what is allocated."""


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
    `stream`: on another stream; `lifetime`: there longer or shorter."""
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


class Comparison(NamedTuple):
    """All that `memgraph check` says."""

    predicted: int
    """Allocations."""
    measured: int
    matched: int
    phases: tuple[PhaseCount, ...]
    peaks: tuple[Figure, ...]
    """Of `KINDS`."""
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
    bounds: tuple[Bounds, ...] = ()
    """Of the predicted peaks, those that the order of streams leaves open; in `peaks` they are lazy."""
    steps: tuple[int, int] | None = None
    """Of a recording that began late: the first and the last step of the prediction that it was laid beside."""

    def open(self, kind: str) -> Bounds | None:
        """The bounds of a predicted peak, if it is open."""
        return next((row for row in self.bounds if row.kind == kind), None)

    @property
    def ratios(self) -> dict[str, float]:
        """Predicted over measured, of each of `KINDS` that is there. Of a peak that is open its nearer end counts: 1 if
        the measured lies between."""
        return {kind: _nearest(figure, self.open(kind)).ratio for kind, figure in zip(KINDS, self.peaks, strict=False)}


def compare(predicted: Trace, measured: Trace) -> Comparison:
    """Align two runs and say what differs. Linear in practice: a million events take seconds.

    Of a run that ended out of memory, what is predicted beyond is left out; of a recording that began late, what is
    predicted before and after it.
    """
    whole = measured
    predicted, measured, steps = beside(predicted, measured)
    refused = refusal(predicted, measured), refusal(measured, measured)
    predicted = as_far_as(predicted, measured)
    ours, theirs = Run(predicted), Run(measured)
    streams = uses_streams(predicted) and uses_streams(measured)
    stretches = align(ours.keys(streams), theirs.keys(streams))
    pairs = Pairs(stretches, len(theirs.sizes))
    matched = sum(stretch.length for stretch in stretches)
    lifetimes = list(other_lives(ours, theirs, pairs))
    model, where = served(whole), placed(whole)
    return Comparison(
        len(ours.sizes), len(theirs.sizes), matched, _phases(ours, stretches),
        _peaks(predicted, measured, model, where), len(lifetimes),
        _differences(ours, theirs, stretches, pairs, lifetimes), model, where, refused,
        _versions(predicted, measured), tuple(other_settings(predicted, measured)), bounds(predicted), steps,
    )  # fmt: skip


def _versions(predicted: Trace, measured: Trace) -> tuple[str, str] | None:
    ours, theirs = version_of(predicted.torch), version_of(measured.torch)
    same = ours is None or theirs is None or Ties.of(ours) is Ties.of(theirs)
    return None if same else (predicted.torch, measured.torch)


def _phases(ours: Run, stretches: Sequence[Stretch]) -> tuple[PhaseCount, ...]:
    """Phases are stretches of the run, so each is a range of allocations."""
    found = []
    for phase in ours.trace.phases:
        first, last = (bisect_right(ours.births, event - 1) for event in (phase.start, phase.stop))
        if last > first:
            hits = sum(max(0, min(last, s.left + s.length) - max(first, s.left)) for s in stretches)
            found.append(PhaseCount(phase.name, phase.step, last - first, hits))
    return tuple(found)


def _peaks(predicted: Trace, measured: Trace, model: Usage, where: Placed | None) -> tuple[Figure, ...]:
    """torch's own statistics where the recording has them, for its blocks can be larger than what the history says;
    else the model's blocks, if it put every one where PyTorch did. The hook has no blocks of PyTorch's: its requests as
    the model serves them."""
    told: dict[str, int] = measured.settings.get("statistics", {}).get("end", {})
    real = model if measured.settings.get("via") == "hook" else Usage(*measured.peak[:3])
    if where is not None and where.same == where.blocks:
        real = real._replace(allocated=where.allocated)
    recorded = {**real._asdict(), "active": measured.peak.active}
    kinds = KINDS if predicted.waits or measured.waits else KINDS[:3]
    return tuple(Figure(getattr(predicted.peak, kind), int(told.get(f"{kind}.peak", recorded[kind]))) for kind in kinds)


def _nearest(figure: Figure, ends: Bounds | None) -> Figure:
    if ends is None:
        return figure
    low, high = sorted((ends.eager, ends.lazy))
    return figure._replace(predicted=min(max(figure.measured, low), high))


def _differences(
    ours: Run, theirs: Run, stretches: Sequence[Stretch], pairs: Pairs, lives: Iterable[OtherLife]
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
            kind = "extra" if right is None else "missing" if left is None else "stream" if size == real else "size"
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


def _alive(run: Run, order: int | None, clock: int) -> int:
    """Whether an allocation is there right after the last of so many."""
    return int(order is not None and order < clock <= run.deaths[order])


def _peak_clock(run: Run) -> int:
    """How many allocations there were at the highest requested bytes."""
    return bisect_right(run.births, run.trace.peak.event)


def within(comparison: Comparison, tolerance: float) -> bool:
    """Whether all peaks agree to that share, and neither run is out of memory where the other is not."""
    return refused_alike(comparison) and all(abs(ratio - 1) <= tolerance for ratio in comparison.ratios.values())


def refused_alike(comparison: Comparison) -> bool:
    """Whether both fit, or both are refused the same allocation."""
    predicted, measured = comparison.refused
    if predicted is None or measured is None:
        return predicted is measured
    return predicted.is_that_of(measured)
