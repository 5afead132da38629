"""What grows from step to step, in words: who holds it, at which line, and what to write there."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import islice

from memgraph.analyze.finding import Finding
from memgraph.analyze.held_in_words import held_by, remedy
from memgraph.analyze.steps import (
    FEWEST,
    SMALLEST,
    Kind,
    Steps,
    calls,
    holder,
    in_words,
    kept_at,
    kinds_kept,
    rows_of,
    step_ends,
    steps,
)  # fmt: skip
from memgraph.analyze.uses import makers
from memgraph.trace import Category, Held, Role, Trace, columns
from memgraph.units import format_bytes

_NAMED = 3
_SHOWS = 0.05
"""Share of the peak from which on what is left of the step before is told."""
_STAY = (Category.PARAMETER, Category.GRADIENT, Category.OPTIMIZER)
"""What a step has of those before it; in a recording it has no name."""
_PILES = 0.001
"""The same where two steps cannot say whether it grows, and a container or an attribute holds a graph of both."""


def leaks(trace: Trace) -> tuple[Finding, ...]:
    """What grows, by who holds it, the one that grows fastest first; else what of the step before is alive at the peak;
    empty if there is neither."""
    found = steps(trace)
    if found is not None and found.kinds:
        return tuple(_finding(trace, found, kinds) for kinds in _by_holder(found.kinds))
    return _left_over(trace)


def verdict_on_steps(found: Steps) -> str:
    """A sentence on a run in which nothing grows, or next to nothing."""
    if found.slow:
        told = format_bytes(1000 * found.slow)
        who = next((held_by(kind.held) for kind in found.little if kind.held), "")
        return (
            f"{format_bytes(found.slow)} more are kept each {found.unit}, which is little: {told} in a thousand"
            f"{f'; {who}' if who else ''}."
        )
    if found.unit == "call":
        return f"Nothing is kept from call to call: {found.count} calls of the model were looked at."
    if found.steady:
        after = found.count - found.steady
        need = "step after it needs" if after == 1 else f"{after} steps after it need"
        return f"Steady after step {found.steady}: the {need} no more."
    return f"Nothing is kept from step to step; what a step needs still varied over {found.count} steps."


def _by_holder(kinds: Sequence[Kind]) -> list[list[Kind]]:
    """Figures, which are little beside other things, are left out there. Entries of a dict that one line fills are one
    holder, the dict; what has a graph there is told by itself."""
    groups = _grouped(_grouped([[kind] for kind in kinds], _name), _dict)
    more = [group for group in groups if any(kind.rate > SMALLEST for kind in group)] or groups
    return sorted(more, key=lambda group: -sum(kind.rate for kind in group))


def _grouped(groups: Sequence[list[Kind]], key: Callable[[Held | None], object]) -> list[list[Kind]]:
    found: dict[object, list[Kind]] = {}
    for group in groups:
        found.setdefault(key(_foremost([kind.held for kind in group])), []).extend(group)
    return list(found.values())


def _name(held: Held | None) -> object:
    """What a holder is known by: all gradients are one cause."""
    return held and (held.kind if held.kind == "gradient" else held.name)


def _dict(held: Held | None) -> object:
    """Likewise of the dict in which it is, by its name and the line that fills it."""
    if held is None or held.graph or "[" not in held.name:
        return _name(held)
    return held.name.partition("[")[0], held.source


def _finding(trace: Trace, found: Steps, kinds: Sequence[Kind]) -> Finding:
    rate = round(sum(kind.rate for kind in kinds))
    held = _foremost([kind.held for kind in kinds])
    rows = [f"{kind.count:,} x {kind.what}" for kind in kinds[:_NAMED]]
    more = len(kinds) - len(rows)
    rows += [f"{more} more kinds"] if more else []
    what = f"Grows {format_bytes(rate)} a {found.unit}: {', '.join(rows)}.{_until(trace, found)}"
    name = "growing-graph" if held and held.graph else "growing"
    trains = found.unit == "step" and any(phase.name == "backward" for phase in trace.phases)
    help_ = remedy(held, kinds, trace, trains=trains)
    return Finding(name, what, held.source if held else kinds[0].source, held_by(held, trace), help_, rate)


def _foremost(holders: Sequence[Held | None]) -> Held | None:
    """Where a name holds some itself and its graph the rest, the graph is the cause."""
    known = [held for held in holders if held is not None]
    found = max(known, key=lambda held: held.graph, default=None)
    entries = {held.name for held in known if "[" in held.name}
    if found is None or found.name not in entries or len(entries) == 1:
        return found
    return found._replace(name=found.name.partition("[")[0], kind="dict")


def _until(trace: Trace, found: Steps) -> str:
    left = found.left(trace)
    if left is None:
        return ""
    return f" {left:,} more {found.unit}s fit." if left else f" The next {found.unit} does not fit."


# What is alive of the step before.


def _left_over(trace: Trace) -> tuple[Finding, ...]:
    """What a step has again while that of the step before it is still alive, at the peak, if it shows there."""
    begun = _begun(trace)
    if begun is None:
        return ()
    early = [index for index in kept_at(trace, trace.peak.event) if begun[0] <= trace.spans[0][index] < begun[1]]
    results = [
        kind for kind in trace.alike(early) if kind.buffer.role is Role.OUTPUT and not kind.buffer.name
        and kind.buffer.category not in _STAY
    ]  # fmt: skip
    if not results:
        return ()
    again = kinds_kept(trace.alike(_born_within(trace, begun[1], begun[2])))
    rows = [rows_of(kinds) for kind, kinds in kinds_kept(results).items() if kind in again]
    rows.sort(key=lambda row: -_size(trace, row))
    size = sum(_size(trace, row) for row in rows)
    held = _foremost([holder(trace, row) for row in rows])
    few = len(step_ends(trace)) < FEWEST
    if held is not None and held.kind == "cycle":  # told by what waits for the collector
        return ()
    piling = few and held is not None and held.graph and held.kind != "variable"
    if not rows or size < (_PILES if piling else _SHOWS) * trace.peak.requested:
        return ()
    if held is not None and not held.graph and _carried_over(trace, rows, begun[1]):
        return ()
    return (_left(trace, rows, size, held, few),)


def _carried_over(trace: Trace, rows: Sequence[Sequence[int]], start: int) -> bool:
    """Whether a later step reads what is left, itself or through a view, from its first event on: an optimizer's own
    state, an average, which a step makes anew of that of the one before it."""
    made = makers(trace)
    first = next((op for op in trace.events.columns[2][start:] if op >= 0), len(trace.ops))
    read = {made[other] for op in islice(trace.ops, first, None) for other in op.reads}
    return all(trace.buffers[index].op in read for row in rows for index in row)


def _begun(trace: Trace) -> tuple[int, int, int] | None:
    """Where the first step began, where the one of the peak did, and where that one ends."""
    told = () if trace.origin == "measured" else calls(trace)  # where a recording's rounds begin is found, not told
    ends = sorted({*step_ends(trace), *(end for made in told for end in made)})
    before = [end for end in ends if end < trace.peak.event]
    after = [end for end in ends if end >= trace.peak.event]
    loaded = [phase.start for phase in trace.phases if phase.step]
    if not before or not loaded:
        return None
    return loaded[0], before[-1] + 1, after[0] + 1 if after else len(trace.events)


def _born_within(trace: Trace, start: int, stop: int) -> list[int]:
    if len(trace.buffers) >= columns.MANY:
        return columns.between(trace.spans[0], start, stop)
    return [index for index, born in enumerate(trace.spans[0]) if start <= born < stop]


def _size(trace: Trace, buffers: Sequence[int]) -> int:
    return sum(map(trace.sizes.__getitem__, buffers))


def _left(trace: Trace, rows: Sequence[Sequence[int]], size: int, held: Held | None, early: bool) -> Finding:
    named = ", ".join(f"{len(row):,} x {in_words(trace, row)}" for row in rows[:_NAMED])
    more = f", {len(rows) - _NAMED} more kinds" if len(rows) > _NAMED else ""
    what = f"At the peak {format_bytes(size)} of the step before are alive beside its own: {named}{more}."
    help_ = _release(held) + ("; more --steps say whether it grows" if early else "")
    first = trace.buffers[rows[0][0]].op
    where = held.source if held else trace.ops[first].source
    return Finding("two-steps-alive", what, where, held_by(held, trace), help_, size)


def _release(held: Held | None) -> str:
    if held is None:
        return "let go of it before the next forward"
    if held.kind != "variable":
        return remedy(held)
    told = f"`del {held.name}` before the next forward"
    return f"{told}; where no backward is wanted, run the model under torch.no_grad()" if held.graph else told
