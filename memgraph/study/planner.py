"""Which layers to checkpoint: asks for the traces, solves, and traces the answer before it is told."""

from __future__ import annotations

import contextlib
import dataclasses
import os
from collections.abc import Iterable, Mapping, Sequence

from memgraph.analyze.causes_of_training import keeps_a_cache
from memgraph.errors import UsageError
from memgraph.gpu.specs import find
from memgraph.options import Options
from memgraph.plan import candidates as search
from memgraph.plan.answer import Answer, Point
from memgraph.plan.candidates import Candidate, Found, Regions
from memgraph.plan.clock import step_time
from memgraph.plan.cost import CALL, HostCosts, base_name, costs, measured
from memgraph.plan.plan_file import Plan, Region
from memgraph.plan.policies import kind_of, named, sets_of
from memgraph.plan.problem import Irregular, Problem, Variant, build
from memgraph.plan.results import Result, keeping, results
from memgraph.plan.sections import LOSS, Cut, cut, loss_ops, same_loss, same_memory
from memgraph.plan.solve import Choice, Solver
from memgraph.plan.tidy import tidy
from memgraph.plan.times import MeasuredTimes, load_times
from memgraph.study.plan_traces import PlanTraces
from memgraph.study.run import Progress
from memgraph.study.workers import Workers
from memgraph.trace import Trace, Usage

LENGTHS = (2, 4, 8)
"""Blocks that are tried as one region. Each length costs a trace."""
CHUNKS = 8
"""Pieces of the loss, where the model can have it in pieces."""
_FIRST = (0.98, 0.94)
"""Shares of the budget that requests may take, tried first: the rest is what the allocator cannot give."""
_ROUNDS = 2
"""Further rounds of two plans each between one that fits and one that does not."""
_ALIKE = 0.005
"""Share of the step by which a cheaper plan is not worth another trace."""
POINTS = 10
"""Of a curve."""


def plan(
    options: Options, budget: int | None = None, *, minimize: str = "time", progress: Progress | None = None,
    times: MeasuredTimes | str | os.PathLike[str] | None = None,
) -> Answer:  # fmt: skip
    """The cheapest plan that fits, or the one of least memory. As `memgraph.api.plan_checkpoints`."""
    if minimize not in ("time", "memory"):
        raise UsageError(f"minimize {minimize!r}: it is time or memory")
    measured = times if times is None or isinstance(times, MeasuredTimes) else load_times(times)
    with contextlib.closing(Workers()) as workers:
        planner = Planner(options, budget, progress, workers, times=measured)
        return planner.cheapest() if minimize == "time" else planner.least_memory()


class Planner(PlanTraces):
    """Plans for one step.

    Args:
        options: the step, with nothing checkpointed.
        budget: bytes that PyTorch's allocator may take; None for what the card has for it.
        workers: trace beside this process; the caller closes them.
        host_call: nanoseconds that the host takes for one ATen call.
        times: measured on the card; a roofline stands in for what is not among them.

    Raises:
        UsageError: the options checkpoint already, or the times are of another card.
    """

    lengths: Sequence[int] = LENGTHS

    def __init__(
        self, options: Options, budget: int | None = None, progress: Progress | None = None,
        workers: Workers | None = None, host_call: float = CALL, times: MeasuredTimes | None = None,
    ) -> None:  # fmt: skip
        from memgraph.study.run import default_gpu

        if options.checkpoint != "none":
            raise UsageError("a plan starts from a step with nothing checkpointed: leave --checkpoint out")
        if options.compile != "none":
            raise UsageError("plans are made for eager steps: leave --compile out")
        spec = find(options.gpu or default_gpu())
        if times is not None:
            times.require(spec, options)
        self.times = times
        self.budget = budget or options.memory or spec.memory - spec.context
        options = dataclasses.replace(options, gpu=spec.name, memory=self.budget)
        super().__init__(options, workers or Workers(0), progress)
        self._costs = costs(spec, HostCosts.of(host_call), times)
        self.host_call = host_call
        self._foreseen: dict[str, float] = {}
        self._refined = 0
        self._use_cache = True

    def cheapest(self) -> Answer:
        """The plan that costs least of those that fit the budget, traced.

        Raises:
            MemgraphError: the step as it is cannot be run.
        """
        self._prepare()
        base = self._base_point()
        best = self._without_plan(base) or self._search()
        return self._answer(base, best, None if best else self._least(), ())

    def least_memory(self) -> Answer:
        """The plan with the lowest peak, traced. Raises as `cheapest`."""
        self._prepare()
        least = self._least()
        return self._answer(self._base_point(), least if least.fits else None, least, ())

    def pareto(self, points: int = POINTS) -> Answer:
        """The plans that no other one beats in both peak and cost, each traced; with what `cheapest` says."""
        self._prepare()
        base = self._base_point()
        choices = self._spread(points)
        self._ahead([self._with(self._plan(choice)) for choice in choices])
        curve = [base, *([] if self._use_cache else [self._point(())]), *map(self._point, choices)]
        best = self._without_plan(base) or self._search(curve[1:])
        return self._answer(base, best, curve[-1], tuple(_undominated(curve)))

    # The problem.

    def _prepare(self) -> None:
        """The traces, and the problem from them."""
        chunked = self._trace_base()
        ours, theirs = loss_ops(self.base, chunked) if chunked is not None else (frozenset[int](), frozenset[int]())
        self._find(ours)
        self._base_cut = self._cut(self.base, self.found.all, ours)
        variants, names = self._variants(), list(self._modules)
        if chunked is not None:
            in_chunks = self._cut(chunked, self.found.all, theirs)
            variants.append(Variant(((LOSS,),), (f"{CHUNKS} chunks",), in_chunks))
            names.append(LOSS)
        self.problem: Problem = self._build(names, variants)
        self.solver = Solver(self.problem)

    def _trace_base(self) -> Trace | None:
        """The step with everything kept; and with its loss in chunks, which is returned, where it can be had so."""
        base = self._with(None)
        chunked = dataclasses.replace(base, set={**base.set, "loss_chunks": str(CHUNKS)})
        self._ahead([base, chunked] if self._may_chunk() else [base])
        self.base = self._as_it_is = self._trace(base)
        if keeps_a_cache(self.base):
            self._leave_the_cache()
        self._base_time = step_time(self.base, self._costs(self.base))
        return self._try(chunked, "a loss in chunks") if self._may_chunk() else None

    def _leave_the_cache(self) -> None:
        """Plans are made for the step without kept keys and values, which layers that are computed again would keep
        twice."""
        without = self._try(self._with(Plan(use_cache=False)), "the step without a KV cache")
        if without is not None and not keeps_a_cache(without):
            self.base, self._use_cache = without, False
            self.notes.append("plans keep no keys and values in training: model.config.use_cache = False")

    def _find(self, loss: Iterable[int]) -> None:
        """The candidates, without those that overlap the loss's ops."""
        found = search.find(self.base)
        owner = search.owner_of(found.all)
        self.found: Found = found.without({owner(self.base.ops[op].module) for op in loss})
        self._modules = {candidate.name: candidate.modules for candidate in self.found.all}

    def _variants(self) -> list[Variant]:
        """The runs with some option everywhere it goes."""
        single = tuple((name,) for name in self._modules)
        together = search.together(self.found, self.lengths)
        self._ahead(self._everywhere(regions) for regions in (single, *together))
        nothing = self._variant(single) if single else None
        return [*filter(None, [nothing, *map(self._variant, together)]), *self._keeping(single)]

    def _everywhere(self, regions: Regions, kinds: Sequence[str] = ()) -> Options:
        """The step with all these regions, that keep nothing unless it is said what."""
        parts = zip(regions, kinds or ["nothing"] * len(regions), strict=True)
        found = tuple(self._region(names, kind) for names, kind in parts)
        return self._with(Plan(found, use_cache=self._use_cache))

    def _region(self, names: Iterable[str], kind: str) -> Region:
        return Region(tuple(module for name in names for module in self._modules[name]), kind)

    def _keeping(self, single: Regions) -> list[Variant]:
        """Every candidate recomputed with more and more results kept. These runs are worked out from the one that keeps
        nothing; the one that keeps most is run as well, and where it is not as it was worked out, other policies are
        run one by one."""
        nothing = self._try(self._everywhere(single), "recomputing every candidate") if single else None
        if nothing is None:
            return []
        found = results(nothing, search.owner_of(self.found.all), self._costs(nothing))
        sets = {name: self._sets(nothing, name, kept) for name, kept in found.items()}
        most = max(map(len, sets.values()), default=0)
        chosen = [{name: kept[min(at, len(kept) - 1)] for name, kept in sets.items() if kept} for at in range(most)]
        worked_out = [self._worked_out(nothing, single, kept) for kept in chosen]
        run = self._variant(single, worked_out[-1].kinds) if worked_out else None
        if run is not None and same_memory(run.cut, worked_out[-1].cut):
            return worked_out
        if run is not None:
            self.notes.append("keeping results one by one was left out: such a run is not as it was worked out")
        return [v for kind in named(self._ops()) if (v := self._variant(single, [kind] * len(single)))]

    def _sets(self, _nothing: Trace, _name: str, found: Sequence[Result]) -> Sequence[Sequence[Result]]:
        """What a candidate may keep, from little memory to much."""
        return sets_of(found, len(self._modules))

    def _ops(self) -> set[str]:
        """What the candidates run, by name: `mm`."""
        owner = search.owner_of(self.found.all)
        return {base_name(op) for op in self.base.ops if owner(op.module)}

    def _worked_out(self, nothing: Trace, single: Regions, kept: Mapping[str, Sequence[Result]]) -> Variant:
        """The run that keeps these results, from the one that keeps none."""
        kinds = tuple(kind_of(kept.get(name, ())) for (name,) in single)
        plan = {**nothing.settings, "checkpoint": self._everywhere(single, kinds).checkpoint}
        spent = self._costs(dataclasses.replace(nothing, settings=plan))
        keeps = keeping(nothing, [twins for made in kept.values() for one in made for twins in one.twins])
        owner = search.owner_of(self.found.all)
        return Variant(single, kinds, cut(nothing, owner, spent, self._loss_of(nothing), keeps))

    def _build(self, names: Sequence[str], variants: Sequence[Variant]) -> Problem:
        """Of the variants that have the base's sections. Stacks where the card decides in every one count by its
        time."""
        for stack in ({candidate.name for candidate in stack} for stack in self.found.stacks):
            if all(cut.card_decides(stack) for cut in (self._base_cut, *(variant.cut for variant in variants))):
                self._base_cut = self._base_cut.of_the_card(stack)
                variants = [variant._replace(cut=variant.cut.of_the_card(stack)) for variant in variants]
        usable = []
        for variant in variants:
            try:
                build(names, self._base_cut, [variant], self.options.steps)
                usable.append(variant)
            except Irregular as reason:
                self.notes.append(f"keeping {variant.kinds[0]} was left out: {reason}")
        return build(names, self._base_cut, usable, self.options.steps)

    def _may_chunk(self) -> bool:
        """Whether the model has a field `loss_chunks` that is not in use."""
        from memgraph.models.registry import resolve

        preset = ":" not in resolve(self.options.model, self.options.task).name
        return preset and self.options.set.get("loss_chunks", "1") == "1"

    def _variant(self, regions: Regions, kinds: Sequence[str] = ()) -> Variant | None:
        """A run with these regions, traced."""
        trace = self._try(self._everywhere(regions, kinds), f"regions of {len(regions[0])}")
        if trace is None:
            return None
        together = [Candidate(names[0], self._region(names, "").modules) for names in regions]
        alone = [candidate for candidate in self.found.all if not any(candidate.name in names for names in regions)]
        kept = tuple(kinds) or ("nothing",) * len(regions)
        return Variant(regions, kept, self._cut(trace, [*together, *alone], self._loss_of(trace)))

    def _loss_of(self, trace: Trace) -> frozenset[int]:
        """The loss's ops in a run that computes it as the base does, by their order from each end of their pass."""
        chunked = dataclasses.replace(self._with(None), set={**self.options.set, "loss_chunks": str(CHUNKS)})
        if repr(chunked) not in self._traces:
            return frozenset()
        return same_loss(self.base, loss_ops(self.base, self._traces[repr(chunked)])[0], trace)

    def _cut(self, trace: Trace, candidates: Sequence[Candidate], loss: frozenset[int]) -> Cut:
        return cut(trace, search.owner_of(candidates), self._costs(trace), loss)

    # Answers.

    def _search(self, known: Sequence[Point] = ()) -> Point | None:
        """Between the requests that surely are too many and those that fit: the cheapest plan whose trace fits.

        Args:
            known: plans that were traced already.
        """
        fits = {point.predicted: point for point in known if point.fits}
        low = max(fits, default=0)
        high = min((p.predicted for p in known if not p.fits and p.predicted > low), default=self.budget)
        high = min(high, self.budget)
        limits = _between(low, high) if fits else [int(share * self.budget) for share in _FIRST]
        for _ in range(1 + _ROUNDS):
            for limit, point in zip(limits, self._at(limits), strict=True):
                if point is not None and point.fits:
                    fits[limit], low = point, max(low, limit)
                else:
                    self._refined += point is not None
                    high = min(high, limit)
            if not fits and low == 0:
                least = self._least()
                if not least.fits:
                    return None
                low = least.predicted
                fits[low] = least
            if high <= low or self._alike(fits[low], high):
                break
            limits = _between(low, high)
        return min(fits.values(), key=lambda point: (point.share, point.peak.reserved))

    def _at(self, limits: Sequence[int]) -> list[Point | None]:
        """The cheapest plans with so many requested bytes, traced side by side."""
        choices = [self._cheapest(limit) for limit in limits]
        self._ahead(self._with(self._plan(choice)) for choice in choices if choice is not None)
        return [None if choice is None else self._point(choice) for choice in choices]

    def _alike(self, point: Point, limit: int) -> bool:
        """Whether nothing is gained by a plan with a few more requested bytes."""
        choice = self.solver.cheapest(limit)
        return choice is not None and self._foreseen[point.plan.text] - self.problem.share(choice) < _ALIKE

    def _least(self) -> Point:
        return self._point(self._least_choice())

    def _least_choice(self) -> Choice:
        choice = self.solver.least_memory()
        return self._tidy(choice, self.problem.peak(choice))

    def _cheapest(self, limit: int) -> Choice | None:
        choice = self.solver.cheapest(limit)
        return None if choice is None else self._tidy(choice, limit)

    def _tidy(self, choice: Choice, limit: int) -> Choice:
        stacks = [[candidate.name for candidate in stack] for stack in self.found.stacks]
        return tidy(self.problem, stacks, choice, limit)

    def _spread(self, points: int) -> list[Choice]:
        """Choices from nearly all kept to the least memory, evenly by their peak."""
        least = self._least_choice()
        high, low = self.problem.peak(()), self.problem.peak(least)
        limits = [high - (high - low) * place // points for place in range(1, points)]
        found = dict.fromkeys(choice for limit in limits if (choice := self._cheapest(limit)) is not None)
        return [*found, *([least] if least not in found else [])]

    def _base_point(self) -> Point:
        peak, as_it_is = self.problem.peak(()), self._as_it_is
        predicted = peak if as_it_is is self.base else as_it_is.peak.requested
        return Point(Plan(), predicted, Usage(*as_it_is.peak[:3]), as_it_is.fits, 0.0, self.problem.binding(()).name)

    def _without_plan(self, base: Point) -> Point | None:
        """The step with nothing checkpointed, if it fits: as it is, or without what it need not keep."""
        if base.fits or self._use_cache:
            return base if base.fits else None
        without = self._point(())
        return without if without.fits else None

    def _point(self, choice: Choice) -> Point:
        plan = self._plan(choice)
        trace = self._trace(self._with(plan))
        predicted, binding = self.problem.peak(choice), self.problem.binding(choice).name
        self._foreseen[plan.text] = self.problem.share(choice)
        return Point(plan, predicted, Usage(*trace.peak[:3]), trace.fits, self._slower(trace), binding)

    def _slower(self, trace: Trace) -> float:
        """Share of the base's step by which a run's step takes longer."""
        return step_time(trace, self._costs(trace)) / self._base_time - 1 if self._base_time else 0.0

    def _plan(self, choice: Choice) -> Plan:
        """The options as regions of modules."""
        chosen = [self.problem.options[number] for number in choice]
        order = {name: place for place, name in enumerate(self.problem.candidates)}
        parts = sorted((option for option in chosen if option.covers != (LOSS,)), key=lambda o: order[o.covers[0]])
        regions = [self._region(option.covers, option.kind) for option in parts]
        return Plan(tuple(regions), CHUNKS if len(parts) < len(chosen) else 1, use_cache=self._use_cache)

    def _answer(self, base: Point, best: Point | None, least: Point | None, curve: tuple[Point, ...]) -> Answer:
        stacks = tuple(len(stack) for stack in self.found.stacks)
        for point in filter(None, (best, least, *curve)):
            if point.predicted != point.peak.requested:
                self.notes.append(
                    f"a peak was foreseen at {point.predicted:,} bytes and traced at {point.peak.requested:,}"
                )
        return Answer(
            self.options, self.budget, base, best, least, curve, self.problem, stacks, self._refined,
            len(self._traces), tuple(dict.fromkeys(self.notes)), self.host_call,
            None if self.times is None else measured(self.base, self.times),
        )  # fmt: skip


def _between(low: int, high: int) -> list[int]:
    """Two limits that divide a stretch in three, the higher first."""
    return [high - (high - low) // 3, low + (high - low) // 3]


def _undominated(points: Sequence[Point]) -> list[Point]:
    """From the cheapest on, each with a lower peak than all before."""
    kept: list[Point] = []
    for point in sorted(points, key=lambda point: (point.share, point.peak.requested)):
        if not kept or point.peak.requested < kept[-1].peak.requested:
            kept.append(point)
    return kept
