"""Checkpoint plans for a step that torch.compile runs: the planner of eager steps with the costs of a compiled one.

Three things are otherwise there. What nobody needs is not computed again: eager checkpoints repeat every op that is not
kept, a compiler only what leads to something the backward reads. Pointwise ops and reductions are fused: they write
what a product reads, and read what a product made or what was kept. And regions are single modules, for torch.compile
does not follow a checkpoint that one module opens and another closes.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence

from memgraph.analyze.flops import of_op
from memgraph.gpu.specs import find
from memgraph.options import Options
from memgraph.plan.candidates import Candidate, owner_of
from memgraph.plan.cost import KERNEL, REACHED, VIEWS, Spent, base_name, recomputed
from memgraph.plan.plan_file import keeps, parse_plan
from memgraph.plan.results import Result
from memgraph.study.planner import Planner
from memgraph.trace import Trace


class CompiledPlanner(Planner):
    """Plans for a compiled step; their peaks are foreseen for an eager one."""

    lengths: Sequence[int] = ()

    def __init__(self, options: Options, budget: int, host_call: float) -> None:
        super().__init__(options, budget, host_call=host_call)
        self._eager = self._costs
        self._bandwidth = find(options.gpu).bandwidth
        self._costs = self._compiled

    def _compiled(self, trace: Trace) -> list[Spent]:
        """What the ops of a run take where its plan's regions are compiled."""
        spent = self._eager(trace)
        text = str(trace.settings.get("checkpoint", ""))
        for region in parse_plan(text).regions if text.startswith("{") else ():
            for again in _recomputations(trace, region.modules):
                kept = _kept(trace, again, region.keep)
                for op, nanoseconds in self._again(trace, spent, again, kept).items():
                    spent[op] = spent[op]._replace(device=nanoseconds)
        return spent

    def _again(
        self, trace: Trace, spent: Sequence[Spent], again: Sequence[int], kept: frozenset[int]
    ) -> dict[int, int]:
        """By op of a recomputation: the card's nanoseconds in a compiled step."""
        readers = _readers(trace, again)
        needed = _needed(trace, again, kept, readers)
        return {op: self._of_op(trace, spent, op, needed, kept, readers[op]) if op in needed else 0 for op in again}

    def _of_op(
        self, trace: Trace, spent: Sequence[Spent], op: int, needed: Iterable[int], kept: Iterable[int],
        readers: Iterable[int],
    ) -> int:  # fmt: skip
        if not spent[op].device or of_op(trace.ops[op]):
            return spent[op].device
        to_products = any(of_op(trace.ops[reader]) for reader in readers)
        moved = sum(spec.bytes for spec in trace.ops[op].outputs) if to_products else 0
        for spec, made in zip(trace.ops[op].inputs, trace.ops[op].reads, strict=False):
            source = _made_by(trace, made)
            moved += spec.bytes * (source not in needed or source in kept or bool(of_op(trace.ops[source])))
        return to_products * KERNEL + round(1e9 * moved / self._bandwidth / REACHED["pointwise"])

    def _sets(self, nothing: Trace, name: str, found: Sequence[Result]) -> Sequence[Sequence[Result]]:
        """From all that the backward reads, always without what costs least to compute again, by the bytes it takes."""
        again = list(_recomputations(nothing, self._modules[name]))[-1]
        spent = self._eager(nothing)
        by_op = {one.twins[-1][1]: one for one in found}

        def cost(kept: frozenset[int]) -> int:
            return sum(self._again(nothing, spent, again, kept).values())

        sets = [frozenset(by_op) & _read(nothing, again)]
        while sets[-1]:
            sets.append(_with_less(sets[-1], by_op, cost))
        return [[by_op[op] for op in sorted(kept)] for kept in reversed(sets) if kept]


def _with_less(kept: frozenset[int], by_op: dict[int, Result], cost: Callable[[frozenset[int]], int]) -> frozenset[int]:
    """Without one of them, or with a smaller one in its place."""
    now = cost(kept)
    ways = [(kept - {op}, by_op[op].size) for op in kept]
    ways += [(kept - {op} | {other}, by_op[op].size - by_op[other].size)
             for op in kept for other in by_op.keys() - kept if by_op[other].size < by_op[op].size]  # fmt: skip
    return min(ways, key=lambda way: ((cost(way[0]) - now) / way[1], -way[1]))[0]


def _recomputations(trace: Trace, modules: Sequence[str]) -> Iterator[list[int]]:
    """The ops of each recomputation of a region."""
    inside = owner_of([Candidate("the region", tuple(modules))])
    found: dict[int, list[int]] = {}
    for index, op in enumerate(trace.ops):
        if recomputed(trace, op) and inside(op.module):
            found.setdefault(op.phase, []).append(index)
    yield from found.values()


def _kept(trace: Trace, again: Iterable[int], keep: str) -> frozenset[int]:
    ran = Counter[str]()
    kept = set()
    for op in again:
        name = base_name(trace.ops[op])
        if keeps(keep, name, ran[name]):
            kept.add(op)
        ran[name] += name != "detach"
    return frozenset(kept)


def _made_by(trace: Trace, op: int) -> int:
    """The op that computed what an op returns: itself, unless it is a view."""
    while base_name(trace.ops[op]) in VIEWS and trace.ops[op].reads:
        op = trace.ops[op].reads[0]
    return op


def _readers(trace: Trace, again: Sequence[int]) -> dict[int, set[int]]:
    """By op of a recomputation: the ops that read what it computed."""
    readers: dict[int, set[int]] = {op: set() for op in again}
    phase = trace.ops[again[0]].phase
    for index in range(again[0], len(trace.ops)):
        if trace.ops[index].phase != phase:
            break
        for made in trace.ops[index].reads:
            source = _made_by(trace, made)
            if source in readers and _made_by(trace, index) == index:
                readers[source].add(index)
    return readers


def _read(trace: Trace, again: Sequence[int]) -> frozenset[int]:
    """The ops of a recomputation whose results the backward reads."""
    inside = set(again)
    return frozenset(op for op, readers in _readers(trace, again).items() if readers - inside)


def _needed(trace: Trace, again: Sequence[int], kept: frozenset[int], readers: dict[int, set[int]]) -> set[int]:
    """The ops that are run again where these results are kept."""
    inside, needed = set(again), set()
    for op in reversed(again):
        wanted = readers[op] - inside or readers[op] & needed
        if wanted and op not in kept:
            needed.add(op)
    return needed
