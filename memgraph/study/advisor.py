"""The ways to make a step fit: every change and every combination is traced before it is told."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Sequence

from memgraph.analyze.advice import (
    CHANGES,
    MICRO_BATCHES,
    WHOLE_STEP,
    Advice,
    Advised,
    Change,
    Price,
    shorter_sequences,
    smaller_batches,
)
from memgraph.analyze.flops import flops
from memgraph.gpu.specs import find
from memgraph.options import Options
from memgraph.study.run import Progress
from memgraph.study.workers import Workers
from memgraph.trace import Trace

_BATCHES = 2
"""Smaller batches that are traced ahead, before it is known whether the first fits."""


class Advisor:
    """Asks for the traces, and remembers them.

    Args:
        options: the wanted step: the card, and as `batch` the samples of a step.
        workers: trace beside this process; the caller closes them.
    """

    def __init__(self, options: Options, progress: Progress | None = None, workers: Workers | None = None) -> None:
        from memgraph.models.registry import resolve
        from memgraph.study.run import default_gpu

        gpu = find(options.gpu or default_gpu())
        seq = options.seq if options.seq is not None else resolve(options.model, options.task).default_seq
        self.options = dataclasses.replace(options, gpu=gpu.name, seq=seq)
        self.progress = progress
        self.workers = workers or Workers(0)
        self._traces: dict[str, Trace | None] = {}
        self._base_work = 1.0

    def advise(self) -> Advised:
        """See the module's text.

        Raises:
            MemgraphError: the step as it is cannot be run.
        """
        alone = dataclasses.replace(self.options, batch=1)
        self._ahead([self.options, alone])
        base = self._traced(self.options, must=True)
        assert base is not None
        self._base_work = _work(base, self.options)
        now = self._advice((), self.options, base)
        one = self._traced(alone) or base
        singles = self._singles(base)
        rows = [row for row in singles if _worth(row, now)]
        if not now.fits and not any(row.fits and row.changes[0] in CHANGES for row in rows):
            rows += self._together(rows, base)
        ranked = sorted(rows, key=lambda row: (not row.fits, row.price, len(row.changes), row.work, row.reserved))
        return Advised(now, base, self._advice((), alone, one), one.peak.phase, tuple(ranked))

    def _singles(self, base: Trace) -> list[Advice]:
        """Each change alone."""
        tried = [(change, changed) for change in CHANGES if (changed := change.apply(self.options, base)) is not None]
        batches, lengths = smaller_batches(self.options), shorter_sequences(self.options, self.options.seq)
        self._ahead(_shortened(changed) for _, changed in [*tried, *lengths[:1]])
        self._ahead(_shortened(changed, MICRO_BATCHES) for _, changed in batches[:_BATCHES])
        rows = [self._row((change,), changed) for change, changed in tried]
        return [row for row in (*rows, self._largest(batches), self._largest(lengths)) if row is not None]

    def _largest(self, sizes: Sequence[tuple[Change, Options]]) -> Advice | None:
        """The largest smaller size that fits, or the smallest."""
        row = None
        for change, options in sizes:
            row = self._row((change,), options, MICRO_BATCHES) or row
            if row is not None and row.fits:
                row = self._row((change,), options) or row
            if row is not None and row.fits:
                break
        return row

    def _together(self, singles: Sequence[Advice], base: Trace) -> list[Advice]:
        """Changes added up, what costs least and saves most first, until the step fits; then those taken out again that
        it fits without. None if all together are not enough."""
        usable = [row for row in singles if row.changes[0] in CHANGES and row.price < Price.TRAINING]
        order = [row.changes[0] for row in sorted(usable, key=lambda row: (row.price, row.reserved))]
        row = self._combined(order, base) if len(order) > 1 else None
        if row is None or not row.fits:
            return []
        low, high = 2, len(order)
        while low < high:  # the fewest from the front that fit
            middle = (low + high) // 2
            some = self._combined(order[:middle], base)
            low, high, row = (low, middle, some) if some is not None and some.fits else (middle + 1, high, row)
        return [self._fewer(row, base)]

    def _fewer(self, row: Advice, base: Trace) -> Advice:
        """Without what is not needed, the dearest first."""
        for change in sorted(row.changes, key=lambda change: change.price, reverse=True):
            rest = [other for other in row.changes if other != change]
            less = self._combined(rest, base) if len(rest) > 1 else None
            if less is not None and less.fits:
                row = less
        return row

    def _combined(self, changes: Sequence[Change], base: Trace) -> Advice | None:
        """Those of the changes that go together, in their order."""
        options, taken = self.options, []
        for change in changes:
            changed = change.apply(options, base)
            if changed is not None:
                options = changed
                taken.append(change)
        return self._row(tuple(taken), options)

    def _row(self, changes: tuple[Change, ...], options: Options, most: int = WHOLE_STEP) -> Advice | None:
        trace = self._traced(_shortened(options, most))
        return None if trace is None else self._advice(changes, options, trace)

    def _advice(self, changes: tuple[Change, ...], options: Options, trace: Trace) -> Advice:
        work = _work(trace, options) / self._base_work
        return Advice(changes, options, *trace.peak[:3], trace.fits, work)

    # Traces.

    def _ahead(self, wanted: Iterable[Options]) -> None:
        for options in wanted:
            if _key(options) not in self._traces:
                self.workers.ask(_key(options), options)

    def _traced(self, options: Options, *, must: bool = False) -> Trace | None:
        """None for what the model or torch refuses: such a change is not one."""
        key = _key(options)
        if key not in self._traces:
            if self.progress is not None:
                self.progress(f"tracing change {len(self._traces)}", len(self._traces), None)
            self._ahead([options])
            try:
                self._traces[key] = self.workers.take(key, options)[0]
            except Exception:
                if must:
                    raise
                self._traces[key] = None
        return self._traces[key]


def _shortened(options: Options, most: int = WHOLE_STEP) -> Options:
    """The step itself, or the first micro-batches of one that has more than `most`."""
    return options if options.accumulate <= most else dataclasses.replace(options, accumulate=MICRO_BATCHES)


def _key(options: Options) -> str:
    return repr(options)


def _worth(row: Advice, now: Advice) -> bool:
    return row.requested < now.requested or row.reserved < now.reserved


def _work(trace: Trace, options: Options) -> float:
    """Floating-point operations a token."""
    return flops(trace) / (options.batch * trace.settings["accumulate"] * (options.seq or 1)) or 1.0
