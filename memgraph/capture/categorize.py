"""Says of each buffer what it is for, from what the run did with it."""

from __future__ import annotations

import dataclasses
from collections.abc import Set

from memgraph.capture.kept import kv_cache
from memgraph.trace import Buffer, Category, Life, Phase, Role, Trace
from memgraph.trace.refused import until_refused

_MOVES = ("aten._to_copy.", "aten.clone.", "aten.cat.", "aten.stack.")
"""Ops after which it is still what it was."""


def categorize(
    trace: Trace, sent: Set[int] = frozenset(), refilled: Set[int] = frozenset(), *, saving: bool = False
) -> Trace:
    """The trace with a category for every buffer.

    Parameters, gradients and optimizer state were marked by name while it ran. The rest goes by role and life: what a
    library or the inside of an op needs is workspace; what the forward made and the backward still has is an
    activation, and so is what was computed where no module is called; what was moved onto the device before the forward
    is input; what is kept for the tokens to come is a KV cache; everything else is temporary, or communication if a
    collective reads or writes it. A storage that is emptied and filled again holds a parameter while it is whole:
    nothing else that torch does has that use. A forward that was refused memory had no backward: what was alive then is
    an activation, if it was one that autograd saves for.

    Args:
        sent: the buffers that collectives read or wrote.
        refilled: those of storages that were emptied and filled again.
        saving: whether gradients were enabled when the run was last refused memory.
    """
    phases, cached = dict(enumerate(trace.phases)), kv_cache(trace)
    if saving and trace.phases:
        phases[len(phases) - 1] = until_refused(trace.phases[-1], trace.events)
    modules = any(phase.name == "forward" for phase in trace.phases)
    buffers = tuple(
        buffer
        if buffer.category is not Category.UNKNOWN
        else buffer._replace(
            category=_used_for(index, _category(trace, phases, buffer, life, modules), sent, refilled, cached)
        )
        for index, (buffer, life) in enumerate(zip(trace.buffers, trace.lives, strict=True))
    )
    return dataclasses.replace(trace, buffers=buffers)


def _used_for(index: int, category: Category, sent: Set[int], refilled: Set[int], cached: Set[int]) -> Category:
    if index in cached:
        return Category.CACHE
    if index in refilled:
        return Category.UNSHARDED
    return Category.COMMUNICATION if index in sent and category is Category.TEMPORARY else category


def _category(trace: Trace, phases: dict[int, Phase], buffer: Buffer, life: Life, modules: bool) -> Category:
    if buffer.role is not Role.OUTPUT:
        return Category.WORKSPACE
    phase = phases.get(trace.ops[buffer.op].phase) if buffer.op >= 0 else None
    if phase is None:
        return Category.UNKNOWN
    if phase.name in ("load", "input"):
        computed = not modules and trace.ops[buffer.op].reads and not trace.ops[buffer.op].name.startswith(_MOVES)
        return Category.ACTIVATION if computed else Category.INPUT
    if phase.name == "forward" and life.stop > phase.stop:
        return Category.ACTIVATION
    return Category.TEMPORARY
