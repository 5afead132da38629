"""What a planner answers: plain rows for the renderers."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import NamedTuple

from memgraph.options import Options
from memgraph.plan.cost import CALL
from memgraph.plan.plan_file import Plan
from memgraph.plan.problem import Problem
from memgraph.plan.times import Measured
from memgraph.trace import Usage


class Point(NamedTuple):
    """A plan and what it does. Bytes; every peak but the first is a fresh trace's."""

    plan: Plan
    predicted: int
    """Requested peak, from the coefficients."""
    peak: Usage
    """Of the trace with the plan applied."""
    fits: bool
    """Whether that trace stayed within the budget."""
    share: float
    """By how much its step takes longer than one without any, as a share: 0.12 for 12 % more time."""
    binding: str
    """The moment of its peak."""


@dataclass(frozen=True)
class Answer:
    """See the module's text."""

    options: Options
    budget: int
    """Bytes that the allocator may take."""
    base: Point
    """With everything kept."""
    best: Point | None
    """The cheapest that fits; None if none does."""
    least: Point | None
    """The one with the lowest peak, where that was asked for or nothing fits."""
    curve: tuple[Point, ...]
    """From everything kept to the least memory, where it was asked for."""
    problem: Problem
    stacks: tuple[int, ...]
    """Candidates in each stack."""
    refined: int
    """Plans that were traced and did not fit, before this one did."""
    traces: int
    notes: tuple[str, ...] = ()
    """What was left out, and why."""
    host_call: float = CALL
    """Nanoseconds that the host was taken to need for one ATen call."""
    measured: Measured | None = None
    """Ops of the step as it is whose time on the card was measured; None where a roofline is all there is."""

    def saved(self, point: Point) -> Plan:
        """A point's plan with what it was made for and what it promises, for its file."""
        settings = {name: value for name, value in self.options.settings().items() if name != "checkpoint"}
        made_for = {**settings, "gpu": self.options.gpu, "budget": self.budget, "host_cost_us": self.host_call / 1000}
        peak = {"requested": point.peak.requested, "allocated": point.peak.allocated, "reserved": point.peak.reserved}
        return replace(point.plan, made_for=made_for, promised={"peak": peak, "recompute": round(point.share, 4)})
