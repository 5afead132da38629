"""The layers of a model as a graph: what passes between them in the forward, and what each keeps for the backward.

Neighbours that keep as much and look the same (`decoder.blocks.0` to `decoder.blocks.29`) are one layer of the graph,
so that a model of 200 blocks is as easy to read as one of four.
"""

from __future__ import annotations

import bisect
import itertools
from array import array
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from memgraph.analyze.attribution import starred
from memgraph.analyze.bands import block_of
from memgraph.trace import Op, Phase, Role, Trace
from memgraph.trace.alike import Alike, by_module, distinct, reader
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
    inside = [phase in forwards for phase in trace.phases]
    blocks = _Blocks(trace, array("q", [op for op, p in enumerate(numbers(trace.ops, "phase")) if inside[p]]), inside)
    kept = _kept(trace, inside, forwards)
    layers = _layers(blocks, kept)
    place = {module: number for number, layer in enumerate(layers) for module in layer.modules}
    needs, left = _needs(trace, kept, blocks, place, backwards)
    return ModuleGraph(step, layers, _passes(trace, blocks, place), needs, left)


def _phases(trace: Trace, name: str, step: int) -> list[Phase]:
    return [phase for phase in trace.phases if phase.name == name and phase.step == step and phase.stop > phase.start]


class _Blocks:
    """The block of each op, told once for each module and not for each of millions of ops.

    Args:
        ops: those of the forward.
        inside: for each phase whether it is of the forward.
    """

    def __init__(self, trace: Trace, ops: array[int], inside: Sequence[bool]) -> None:
        texts, self._modules = by_module(trace.ops)
        self._names = {place: _block(texts[place]) for place in distinct(self._modules)}
        self._phases = numbers(trace.ops, "phase")
        self.ops, self._inside = ops, inside

    def of(self, op: int) -> str:
        """The block that an op ran in."""
        return self._names[self._modules[op]] if op >= 0 else OUTSIDE

    def has(self, op: int) -> bool:
        """Whether it is an op of the forward."""
        return self._inside[self._phases[op]]

    @property
    def order(self) -> list[str]:
        """Those of the forward, in the order in which they began."""
        places = dict.fromkeys(map(self._modules.__getitem__, self.ops))
        return list(dict.fromkeys(map(self._names.__getitem__, places)))


def _block(module: str) -> str:
    """Its block, or the first two parts of its path: `decoder.blocks.3`, `decoder.head`."""
    block = block_of(module)
    return (block if "." in block else ".".join(module.split(".")[:2])) or OUTSIDE


def _kept(trace: Trace, inside: Sequence[bool], forwards: Sequence[Phase]) -> list[Alike]:
    """The buffers that a forward made and that are there when it ends."""
    ends, phases = [phase.stop for phase in forwards], numbers(trace.ops, "phase")
    rows = [
        index
        for index, (op, start, stop) in enumerate(zip(numbers(trace.buffers, "op"), *trace.spans, strict=True))
        if op >= 0 and inside[phases[op]] and _is_there(start, stop, ends)
    ]
    return [kind for kind in trace.alike(rows) if kind.buffer.role is Role.OUTPUT]


def _is_there(start: int, stop: int, moments: Sequence[int]) -> bool:
    place = bisect.bisect_right(moments, start)
    return place < len(moments) and moments[place] <= stop


def _layers(blocks: _Blocks, kept: Sequence[Alike]) -> tuple[Layer, ...]:
    held: Counter[str] = Counter()
    counts: Counter[str] = Counter()
    for kind in kept:
        module = blocks.of(kind.buffer.op)
        held[module] += kind.bytes
        counts[module] += kind.count
    alike = itertools.groupby(blocks.order, lambda module: (starred(module), held[module]))
    return tuple(_layer([*members], held, counts) for _, members in alike)


def _layer(modules: Sequence[str], held: Counter[str], counts: Counter[str]) -> Layer:
    name = modules[0] if len(modules) == 1 else f"{modules[0]} … {modules[-1].rpartition('.')[2]}"
    kept = sum(held[module] for module in modules)
    return Layer(name, tuple(modules), kept, sum(counts[module] for module in modules))


def _passes(trace: Trace, blocks: _Blocks, place: dict[str, int]) -> tuple[Link, ...]:
    """Each result counts once for each layer that takes it."""
    taken: dict[tuple[int, int, int], int] = {}
    reads = reader(trace.ops)
    for index in blocks.ops:
        stop = place[blocks.of(index)]
        for read in reads(index):
            start = place[blocks.of(read)] if blocks.has(read) else stop
            if start != stop:
                taken[start, stop, read] = _result(trace.ops[read])
    return _summed((start, stop, size) for (start, stop, _), size in taken.items())


def _result(op: Op) -> int:
    return op.outputs[0].bytes if op.outputs else 0


def _needs(
    trace: Trace, kept: Iterable[Alike], blocks: _Blocks, place: dict[str, int], backwards: Sequence[Phase]
) -> tuple[tuple[Link, ...], int]:
    links, left = Counter[tuple[int, int]](), 0
    stops, ops, sizes = trace.spans[1], trace.events.columns[2], trace.sizes
    for kind in kept:
        start = place[blocks.of(kind.buffer.op)]
        for index in kind.rows:
            stop = stops[index]
            if any(phase.start <= stop < phase.stop for phase in backwards):
                links[start, place.get(blocks.of(ops[stop]), start)] += sizes[index]
            else:
                left += sizes[index]
    return _summed((*ends, size) for ends, size in links.items()), left


def _summed(links: Iterable[tuple[int, int, int]]) -> tuple[Link, ...]:
    total: Counter[tuple[int, int]] = Counter()
    for start, stop, size in links:
        total[start, stop] += size
    return tuple(Link(*ends, size) for ends, size in sorted(total.items()))
