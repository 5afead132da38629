"""The runs that a planner asks for: each is traced once, and those that are wanted next are begun beside it."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable

from memgraph.errors import MemgraphError
from memgraph.options import Options
from memgraph.plan.plan_file import Plan
from memgraph.study.run import Progress
from memgraph.study.workers import Workers
from memgraph.trace import Trace


class PlanTraces:
    """See the module's text.

    Args:
        options: the step, with nothing checkpointed.
        workers: trace beside this process; the caller closes them.
        progress: told of each trace.
    """

    def __init__(self, options: Options, workers: Workers, progress: Progress | None) -> None:
        self.options, self.workers, self.progress = options, workers, progress
        self.notes: list[str] = []
        self._traces: dict[str, Trace] = {}

    def _with(self, plan: Plan | None) -> Options:
        if plan is None or plan == Plan():
            return self.options
        return dataclasses.replace(self.options, checkpoint=plan.text)

    def _ahead(self, wanted: Iterable[Options]) -> None:
        for options in wanted:
            if repr(options) not in self._traces:
                self.workers.ask(repr(options), options)

    def _trace(self, options: Options) -> Trace:
        key = repr(options)
        if key not in self._traces:
            if self.progress is not None:
                self.progress(f"tracing plan {len(self._traces) + 1}", len(self._traces), None)
            self._traces[key] = self._run(key, options)
        return self._traces[key]

    def _run(self, key: str, options: Options) -> Trace:
        self._ahead([options])
        return self.workers.take(key, options)[0]

    def _try(self, options: Options, what: str) -> Trace | None:
        """None for what the model or torch refuses: such an option is none."""
        try:
            return self._trace(options)
        except MemgraphError as error:
            self.notes.append(f"{what} was left out: {error}")
            return None
