"""Regions of the forward graph for models without tidy blocks: modules, and runs of them, with one way in and one way
out. Their borders are cut vertices: ops through which everything goes."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

from memgraph.trace import Trace

if TYPE_CHECKING:
    from networkx import DiGraph

_PARTS = 12
"""Into about as many regions of equal size a model is divided."""


class _Unit(NamedTuple):
    """A module that runs as a whole: the places of its ops in the forward."""

    path: str
    start: int
    stop: int
    kept: int


def regions(
    trace: Trace, forward: Sequence[int], kept: Mapping[str, int], taken: Collection[str]
) -> list[tuple[str, ...]]:
    """Runs of modules, by their paths.

    Args:
        forward: the ops of one forward.
        kept: bytes that it leaves for the backward, by module.
        taken: modules that are candidates already.
    """
    graph = _graph(trace, forward)
    target = sum(kept.values()) / _PARTS
    units = _units(trace, forward, graph, kept, taken, target)
    return _runs(trace, forward, graph, units, target)


def _graph(trace: Trace, forward: Sequence[int]) -> DiGraph[int]:
    """The differentiated ops of the forward that hang on its inputs; an edge from each op to those that read it."""
    import networkx as nx

    inside = set(forward)
    differentiated = {op.forward for op in trace.ops if op.forward in inside}
    fed: set[int] = set()
    for index in forward:
        reads = trace.ops[index].reads
        if any(read in fed or trace.phases[trace.ops[read].phase].name == "input" for read in reads):
            fed.add(index)
    graph: DiGraph[int] = nx.DiGraph()
    carrying = _carrying(trace, forward, differentiated & fed)
    for index in forward:
        if index in carrying:
            graph.add_node(index)
            graph.add_edges_from((read, index) for read in trace.ops[index].reads if read in carrying)
    return graph


def _carrying(trace: Trace, forward: Sequence[int], differentiated: Collection[int]) -> set[int]:
    """Those, and the views of their results."""
    carrying: set[int] = set()
    for index in forward:
        if index in differentiated or any(read in carrying for read in trace.ops[index].reads):
            carrying.add(index)
    return carrying


def _units(
    trace: Trace,
    forward: Sequence[int],
    graph: DiGraph[int],
    kept: Mapping[str, int],
    taken: Collection[str],
    target: float,
) -> list[_Unit]:
    """The largest modules that are not above the target and whole, or that cannot be divided."""
    spans = _spans(trace, forward)
    units: list[_Unit] = []
    for path in sorted(spans, key=lambda path: (spans[path][0], path.count("."))):
        if any(_within(path, other) or _within(other, path) for other in taken):
            continue
        if units and _within(path, units[-1].path):
            continue
        start, stop, ops = spans[path]
        size = sum(bytes_ for module, bytes_ in kept.items() if _within(module, path))
        leaf = not any(other != path and _within(other, path) for other in spans)
        whole = ops == stop - start and _single(graph, set(forward[start:stop]))
        if path and whole and size and (leaf or size <= target):
            units.append(_Unit(path, start, stop, size))
    return units


def _spans(trace: Trace, forward: Sequence[int]) -> dict[str, tuple[int, int, int]]:
    """By module: its first op's place, one past its last's, and how many it has."""
    spans: dict[str, tuple[int, int, int]] = {}
    for place, index in enumerate(forward):
        parts = trace.ops[index].module.split(".")
        for depth in range(1, len(parts) + 1):
            path = ".".join(parts[:depth])
            start, _, ops = spans.get(path, (place, 0, 0))
            spans[path] = (start, place + 1, ops + 1)
    return spans


def _within(path: str, other: str) -> bool:
    return path == other or path.startswith(other + ".")


def _single(graph: DiGraph[int], ops: set[int]) -> bool:
    """Whether one op's result goes in and one op's result comes out, besides parameters."""
    inner = [op for op in ops if op in graph]
    entries = {source for op in inner for source in graph.predecessors(op) if source not in ops}
    exits = {op for op in inner if any(reader not in ops for reader in graph.successors(op))}
    return len(entries) <= 1 and len(exits) <= 1


def _runs(
    trace: Trace, forward: Sequence[int], graph: DiGraph[int], units: Sequence[_Unit], target: float
) -> list[tuple[str, ...]]:
    """Units that follow each other put together up to the target, where a cut vertex lies between them."""
    import networkx as nx

    cuts = set(nx.articulation_points(graph.to_undirected())) if graph else set()
    runs: list[tuple[list[str], int, int, int]] = []
    for unit in units:
        if runs:
            paths, start, stop, size = runs[-1]
            ops = set(forward[start : unit.stop])
            joined = stop == unit.start and any(index in cuts for index in forward[start:stop])
            if joined and size + unit.kept <= target and _single(graph, ops):
                runs[-1] = ([*paths, unit.path], start, unit.stop, size + unit.kept)
                continue
        runs.append(([unit.path], unit.start, unit.stop, unit.kept))
    return [tuple(paths) for paths, *_ in runs]


__all__ = ["regions"]
