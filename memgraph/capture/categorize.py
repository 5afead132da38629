"""Says of each buffer what it is for, from what the run did with it."""

from __future__ import annotations

import dataclasses
from collections.abc import Set

from memgraph.trace import Buffer, Category, Life, Phase, Role, Trace


def categorize(trace: Trace, sent: Set[int] = frozenset(), refilled: Set[int] = frozenset()) -> Trace:
    """The trace with a category for every buffer.

    Parameters, gradients and optimizer state were marked by name while it ran. The rest goes by role and life: what a
    library or the inside of an op needs is workspace; what the forward made and the backward still has is an
    activation; what was moved onto the device before the forward is input; everything else is temporary, or
    communication if a collective reads or writes it. A storage that is emptied and filled again holds a parameter
    while it is whole: nothing else that torch does has that use.

    Args:
        sent: the buffers that collectives read or wrote.
        refilled: those of storages that were emptied and filled again.
    """
    phases = dict(enumerate(trace.phases))
    buffers = tuple(
        buffer
        if buffer.category is not Category.UNKNOWN
        else buffer._replace(category=_used_for(index, _category(trace, phases, buffer, life), sent, refilled))
        for index, (buffer, life) in enumerate(zip(trace.buffers, trace.lives, strict=True))
    )
    return dataclasses.replace(trace, buffers=buffers)


def _used_for(index: int, category: Category, sent: Set[int], refilled: Set[int]) -> Category:
    if index in refilled:
        return Category.UNSHARDED
    return Category.COMMUNICATION if index in sent and category is Category.TEMPORARY else category


def _category(trace: Trace, phases: dict[int, Phase], buffer: Buffer, life: Life) -> Category:
    if buffer.role is not Role.OUTPUT:
        return Category.WORKSPACE
    phase = phases.get(trace.ops[buffer.op].phase) if buffer.op >= 0 else None
    if phase is None:
        return Category.UNKNOWN
    if phase.name in ("load", "input"):
        return Category.INPUT
    if phase.name == "forward" and life.stop > phase.stop:
        return Category.ACTIVATION
    return Category.TEMPORARY
