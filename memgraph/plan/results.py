"""What a checkpointed region could keep besides its inputs, result by result, and what a run that keeps some does.

A recomputation repeats its region's forward op by op, up to the last tensor that is needed. So a run that keeps a
result is known from one that keeps none: the forward's tensor lives on until its twin from the recomputation would have
died, and the twin's op does not run (torch/utils/checkpoint.py: what a policy saves is handed out in the op's place).
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple

from memgraph.plan.cost import VIEWS, Spent, base_name, recomputed
from memgraph.trace import ENDS, Action, Role, Trace

_RANDOM = ("bernoulli", "dropout", "rand", "rrelu", "multinomial", "normal", "uniform", "exponential")
"""What ops that draw random numbers have in their names: their results are not kept (`plan.apply`)."""


class Result(NamedTuple):
    """Of one op of a region."""

    op: str
    """ATen's name, `mm`."""
    place: int
    """How many of its kind ran before it in the region's forward."""
    size: int
    """Bytes that it takes to keep it."""
    device: int
    """Nanoseconds of the card to compute it again."""
    twins: tuple[tuple[int, int], ...]
    """The op in a forward and the same one in the recomputation, once for each pass."""


class Keeping(NamedTuple):
    """A run that keeps some results, in terms of the one that keeps none."""

    events: tuple[tuple[int, int, int], ...]
    """Action, buffer and op of each event of the run."""
    skipped: frozenset[int]
    """Ops that do not run."""


def results(trace: Trace, owner_of: Callable[[str], str], spent: Sequence[Spent]) -> dict[str, tuple[Result, ...]]:
    """What each region could keep, in the order of its forward.

    Args:
        trace: of a run with every region recomputed and nothing kept.
        owner_of: from a module's path to the region that it is in, or empty.
        spent: what each op takes.
    """
    made = _outputs(trace)
    ends = _ends(trace, owner_of)
    found = {}
    for owner, passes in _passes(trace, owner_of).items():
        if all(map(_repeats, [trace] * len(passes), passes)) and len({_names(trace, ops) for ops, _ in passes}) == 1:
            own = {op: buffers for op, buffers in made.items() if all(ends[n] in ("", owner) for n in buffers)}
            found[owner] = tuple(_of_region(trace, passes, own, spent))
    return found


def _ends(trace: Trace, owner_of: Callable[[str], str]) -> list[str]:
    """By buffer: the region in which it dies, or none. What dies in another's than its own is held by both, and how
    long it lives on if it is kept depends on what is done with the other: such is no choice of one region."""
    ops = trace.events.columns[2]
    dying = (ops[stop] if stop < len(ops) else -1 for stop in trace.spans[1])
    return [owner_of(trace.ops[op].module) if op >= 0 else "" for op in dying]


def _passes(trace: Trace, owner_of: Callable[[str], str]) -> dict[str, list[tuple[list[int], list[int]]]]:
    """By region: for each forward its ops and those that are run again. What checkpoints detach is none of either."""
    forwards: dict[str, dict[int, list[int]]] = defaultdict(dict)
    again: dict[str, dict[int, list[int]]] = defaultdict(dict)
    for index, op in enumerate(trace.ops):
        owner = owner_of(op.module)
        if not owner or base_name(op) == "detach":
            continue
        if trace.phases[op.phase].name == "forward":
            forwards[owner].setdefault(op.phase, []).append(index)
        elif recomputed(trace, op):
            again[owner].setdefault(op.phase, []).append(index)
    return {
        owner: list(zip(by_phase.values(), again[owner].values(), strict=True))
        for owner, by_phase in forwards.items()
        if len(again[owner]) == len(by_phase)
    }


def _names(trace: Trace, ops: Iterable[int]) -> tuple[str, ...]:
    return tuple(trace.ops[op].name for op in ops)


def _repeats(trace: Trace, both: tuple[Sequence[int], Sequence[int]]) -> bool:
    """Whether the ops of the recomputation are the forward's first."""
    forward, again = both
    return _names(trace, again) == _names(trace, forward[: len(again)])


def _outputs(trace: Trace) -> dict[int, list[int]]:
    """The buffers of each op's results."""
    made: dict[int, list[int]] = defaultdict(list)
    for number, buffer in enumerate(trace.buffers):
        if buffer.role is Role.OUTPUT:
            made[buffer.op].append(number)
    return made


def _of_region(
    trace: Trace, passes: Sequence[tuple[list[int], list[int]]], made: Mapping[int, list[int]], spent: Sequence[Spent]
) -> Iterator[Result]:
    ran = Counter[str]()
    written = _written(trace, passes[-1][0])
    for at, again in enumerate(passes[-1][1]):
        name = base_name(trace.ops[again])
        twins = tuple((ops[at], repeated[at]) for ops, repeated in passes if at < len(repeated))
        if len(twins) == len(passes) and twins[-1][0] not in written and _keepable(trace, name, twins, made):
            size = sum(trace.buffers[number].size for number in made[twins[-1][0]])
            yield Result(name, ran[name], size, spent[again].device, twins)
        ran[name] += 1


def _keepable(trace: Trace, name: str, twins: Iterable[tuple[int, int]], made: Mapping[int, list[int]]) -> bool:
    """A result of its own, as large the second time, and no random one."""
    if any(part in name for part in _RANDOM) or name.endswith("_"):
        return False
    sizes = [[_sizes(trace, made.get(op, ())) for op in ops] for ops in twins]
    return all(one and one == other for one, other in sizes)


def _sizes(trace: Trace, buffers: Iterable[int]) -> list[int]:
    return [trace.buffers[number].size for number in buffers]


def _written(trace: Trace, ops: Sequence[int]) -> set[int]:
    """The ops whose results are written over in the forward: torch refuses to keep such. All, where it is not known
    which."""
    found: set[int] = set()
    for index in ops:
        if not base_name(trace.ops[index]).endswith("_"):
            continue
        source = _source(trace, index)
        found |= {source} if source >= 0 else {op for op in ops if op < index}
    return found


def _source(trace: Trace, index: int) -> int:
    """The op that made the storage of an op's first argument; -1 where it is not known."""
    while reads := trace.ops[index].reads:
        index = reads[0]
        if base_name(trace.ops[index]) not in VIEWS and not base_name(trace.ops[index]).endswith("_"):
            return index
    return -1


def keeping(trace: Trace, twins: Collection[tuple[int, int]]) -> Keeping:
    """The run that keeps these results.

    Args:
        trace: of the run that keeps none.
        twins: `Result.twins` of each of them.
    """
    skipped = frozenset(again for _, again in twins)
    made = _outputs(trace)
    forward_of = {two: one for ops in twins for one, two in zip(*(made[op] for op in ops), strict=True)}
    stop = trace.spans[1]
    end = {one: max(stop[one], stop[two]) for two, one in forward_of.items()}
    dropped = {n for n, buffer in enumerate(trace.buffers) if buffer.op in skipped} - set(forward_of)
    dropped -= _asked_for_later(trace, skipped, dropped)
    return Keeping(tuple(_events(trace, forward_of, end, dropped)), skipped)


def _events(
    trace: Trace, forward_of: Mapping[int, int], end: Mapping[int, int], dropped: Collection[int]
) -> Iterator[tuple[int, int, int]]:
    """The run's events; the tensors of the forward die at their own end or at their twin's, whichever is later."""
    for at, (action, buffer, op) in enumerate(zip(*trace.events.columns[:3], strict=True)):
        if action not in (Action.ALLOC, *ENDS) or buffer in dropped:
            continue
        ours = forward_of.get(buffer, buffer)
        if (action == Action.ALLOC and ours == buffer) or (action in ENDS and end.get(ours, at) == at):
            yield action, ours, op


def _asked_for_later(trace: Trace, skipped: Collection[int], dropped: Iterable[int]) -> set[int]:
    """Of the libraries' workspaces, those that a later op of the same kind asks for instead."""
    running: dict[tuple[str, int], int] = {}
    for index, op in enumerate(trace.ops):
        if index not in skipped:
            running[op.name, op.phase] = index
    libraries = [number for number in dropped if trace.buffers[number].role is Role.LIBRARY]
    ops = {number: trace.ops[trace.buffers[number].op] for number in libraries}
    return {n for n in libraries if running.get((ops[n].name, ops[n].phase), -1) > trace.buffers[n].op}
