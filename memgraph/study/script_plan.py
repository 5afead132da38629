"""Which layers of a script's model to checkpoint: planned from runs of the script."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from memgraph.errors import MemgraphError
from memgraph.options import Options
from memgraph.plan.plan_file import Plan, parse_plan
from memgraph.plan.problem import Variant
from memgraph.study.planner import Planner
from memgraph.study.run import Progress
from memgraph.study.script_runs import Script, ran
from memgraph.trace import Trace


class ScriptPlanner(Planner):
    """Plans for a script's model, each block by itself: a few runs of the script.

    Args:
        memory: bytes that PyTorch's allocator may take; None for what the card has for it.
    """

    lengths: Sequence[int] = ()

    def __init__(self, script: Script, progress: Progress | None = None) -> None:
        super().__init__(Options(gpu=script.gpu, steps=script.steps), script.memory, progress)
        self._script = script._replace(memory=self.budget)

    def _may_chunk(self) -> bool:
        return False

    def _keeping(self, _single: object) -> list[Variant]:
        return []

    def _ahead(self, wanted: Iterable[Options]) -> None:
        pass

    def _run(self, _key: str, options: Options) -> Trace:
        plan = None if options.plan is None else parse_plan(options.plan)
        trace = ran(self._script, (), plan, go_on=True)
        if trace is None:
            raise MemgraphError("the script fails with it")
        return trace


def plan_of(script: Script, progress: Progress | None = None) -> tuple[Plan, Trace] | None:
    """The cheapest plan with which the script fits, else the one of least memory, and the script with it; None if
    there is nothing to plan for."""
    planner = ScriptPlanner(script, progress)
    try:
        answer = planner.cheapest()
    except MemgraphError:
        return None
    point = answer.best or answer.least
    if point is None or not point.plan.regions:
        return None
    trace = ran(script, (), point.plan)
    return None if trace is None else (point.plan, trace)
