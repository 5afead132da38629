"""The layers of a model as a graph: what passes between them in the forward, and what each keeps for the backward.

Neighbours that keep as much and look the same (`decoder.blocks.0` to `decoder.blocks.29`) are one layer of the graph,
so that a model of 200 blocks is as easy to read as one of four.
"""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from memgraph.analyze.attribution import starred
from memgraph.analyze.bands import block_of
from memgraph.trace import ENDS, Op, Phase, Role, Trace
from memgraph.trace.rows import numbers

OUTSIDE = "outside any module"
"""What the step itself runs: the loss, most often."""


class Layer(NamedTuple):
    """A module, or neighbours that are alike."""

    name: str
    modules: tuple[str, ...]
    kept: int
    """Bytes that its forward left for the backward."""
    buffers: int
    """How many."""


class Link(NamedTuple):
    """Between two layers, by their places."""

    start: int
    stop: int
    bytes: int


class ModuleGraph(NamedTuple):
    """One step of a model."""

    step: int
    layers: tuple[Layer, ...]
    """In the order in which their forward began."""
    passes: tuple[Link, ...]
    """Results of one layer that another takes in the forward."""
    needs: tuple[Link, ...]
    """Kept bytes of layer `start`, freed in the backward of layer `stop`: it was the last to need them."""
    left: int
    """Bytes kept that outlive the backward: a loss, logits that a script still holds."""


def module_graph(trace: Trace) -> ModuleGraph:
    """The graph of the step with the peak. Empty if it has no forward or no backward."""
    step = trace.peak.step or 1
    forwards, backwards = (_phases(trace, name, step) for name in ("forward", "backward"))
    if not forwards or not backwards:
        return ModuleGraph(step, (), (), (), 0)
    places = {trace.phases.index(phase) for phase in forwards}
    ops = [index for index, phase in enumerate(numbers(trace.ops, "phase")) if phase in places]
    kept = _kept(trace, set(ops), forwards)
    layers = _layers(trace, ops, kept)
    place = {module: number for number, layer in enumerate(layers) for module in layer.modules}
    needs, left = _needs(trace, kept, place, backwards)
    return ModuleGraph(step, layers, _passes(trace, ops, place), needs, left)


def _phases(trace: Trace, name: str, step: int) -> list[Phase]:
    return [phase for phase in trace.phases if phase.name == name and phase.step == step and phase.stop > phase.start]


def _module(op: Op) -> str:
    """Its block, or the first two parts of its path: `decoder.blocks.3`, `decoder.head`."""
    block = block_of(op.module)
    return (block if "." in block else ".".join(op.module.split(".")[:2])) or OUTSIDE


def _kept(trace: Trace, ops: set[int], forwards: Sequence[Phase]) -> list[int]:
    """The buffers that a forward made and that are there when it ends."""
    ends = [phase.stop for phase in forwards]
    return [
        index
        for index, (op, start, stop) in enumerate(zip(numbers(trace.buffers, "op"), *trace.spans, strict=True))
        if op in ops and any(start < end <= stop for end in ends) and trace.buffers[index].role is Role.OUTPUT
    ]


def _layers(trace: Trace, ops: Iterable[int], kept: Sequence[int]) -> tuple[Layer, ...]:
    held: Counter[str] = Counter()
    counts: Counter[str] = Counter()
    for index in kept:
        module = _module(trace.ops[trace.buffers[index].op])
        held[module] += trace.buffers[index].size
        counts[module] += 1
    order = list(dict.fromkeys(_module(trace.ops[op]) for op in ops))
    alike = itertools.groupby(order, lambda module: (starred(module), held[module]))
    return tuple(_layer([*members], held, counts) for _, members in alike)


def _layer(modules: Sequence[str], held: Counter[str], counts: Counter[str]) -> Layer:
    name = modules[0] if len(modules) == 1 else f"{modules[0]} … {modules[-1].rpartition('.')[2]}"
    kept = sum(held[module] for module in modules)
    return Layer(name, tuple(modules), kept, sum(counts[module] for module in modules))


def _passes(trace: Trace, ops: Iterable[int], place: dict[str, int]) -> tuple[Link, ...]:
    """Each result counts once for each layer that takes it."""
    taken: dict[tuple[int, int, int], int] = {}
    inside = set(ops)
    for index in ops:
        stop = place[_module(trace.ops[index])]
        for read in trace.ops[index].reads:
            start = place[_module(trace.ops[read])] if read in inside else stop
            if start != stop:
                taken[start, stop, read] = _result(trace.ops[read])
    return _summed((start, stop, size) for (start, stop, _), size in taken.items())


def _result(op: Op) -> int:
    return op.outputs[0].bytes if op.outputs else 0


def _needs(
    trace: Trace, kept: Iterable[int], place: dict[str, int], backwards: Sequence[Phase]
) -> tuple[tuple[Link, ...], int]:
    links, left = [], 0
    for index in kept:
        life, size = trace.life(index), trace.sizes[index]
        if not any(phase.start <= life.stop < phase.stop for phase in backwards):
            left += size
            continue
        start = place[_module(trace.ops[trace.buffers[index].op])]
        freeing = trace.op_at(life.stop)
        assert trace.events[life.stop].action in ENDS
        links.append((start, place.get(_module(freeing) if freeing else OUTSIDE, start), size))
    return _summed(links), left


def _summed(links: Iterable[tuple[int, int, int]]) -> tuple[Link, ...]:
    total: Counter[tuple[int, int]] = Counter()
    for start, stop, size in links:
        total[start, stop] += size
    return tuple(Link(*ends, size) for ends, size in sorted(total.items()))
