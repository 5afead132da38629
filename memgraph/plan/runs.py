"""A run as the planner needs it: its trace, and which buffers each op reads."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple, Protocol

from memgraph.trace import Buffer, Role, TensorSpec, Trace


class Call(Protocol):
    """The arguments of an op, tensors replaced by tags that say which output of which op they are."""

    @property
    def args(self) -> tuple[Any, ...]: ...
    @property
    def kwargs(self) -> Mapping[str, Any]: ...


class Run(NamedTuple):
    """One run of the training steps."""

    trace: Trace
    reads: tuple[tuple[int, ...], ...]
    """For each op the buffers that its arguments lie in."""
    writes: tuple[tuple[int, ...], ...] = ()
    """For each op the buffers that its results lie in: new ones, or those of its arguments."""


def make_run(trace: Trace, calls: Sequence[Call]) -> Run:
    """Follow every tensor to its buffer: results lie in what their op allocated, views and results in place in what
    its first argument lies in.

    Args:
        trace: the run.
        calls: its ops' arguments, in their order.
    """
    born: dict[int, list[int]] = {}
    for index, buffer in enumerate(trace.buffers):
        if buffer.role is Role.OUTPUT:
            born.setdefault(buffer.op, []).append(index)
    homes: dict[tuple[int, int], int] = {}
    reads, writes = [], []
    for op, call in enumerate(calls):
        used = [homes[tag] for tag in _tags((call.args, call.kwargs)) if tag in homes]
        made = _homes(trace.buffers, trace.ops[op].outputs, born.get(op, []), used)
        homes.update({(op, place): buffer for place, buffer in enumerate(made) if buffer is not None})
        reads.append(tuple(dict.fromkeys(used)))
        writes.append(tuple(dict.fromkeys(buffer for buffer in made if buffer is not None)))
    return Run(trace, tuple(reads), tuple(writes))


def _tags(value: Any) -> Iterator[tuple[int, int]]:
    if hasattr(value, "look"):
        yield (value.op, value.index)
    elif isinstance(value, Mapping):
        for item in value.values():
            yield from _tags(item)
    elif isinstance(value, (list, tuple)):
        for item in value:
            yield from _tags(item)


def _homes(
    buffers: Sequence[Buffer], outputs: Sequence[TensorSpec], born: Sequence[int], used: Sequence[int]
) -> list[int | None]:
    """The buffer of each result."""
    free, found = list(born), []
    for place, spec in enumerate(outputs):
        own = next((index for index in free if (buffers[index].shape, buffers[index].dtype) == spec), None)
        if own is not None:
            free.remove(own)
        found.append(own if own is not None else used[min(place, len(used) - 1)] if used and not born else None)
    return found
