"""The recorded calls as a `torch.fx.Graph`."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from torch.fx import Graph, Node

from memgraph.capture.tags import GraphCall, Tag
from memgraph.trace import Op, TensorSpec


def build_graph(calls: Iterable[GraphCall], ops: Sequence[Op]) -> Graph:
    """A node per ATen call, in the order of the run; tensors made outside are placeholders.

    Each node's `meta` has `shape`, `dtype`, `module`, `source` and `phase` (an index into the trace's phases).
    """
    graph = Graph()
    made: dict[tuple[int, int], Node] = {}

    def node_of(tag: Tag) -> Node:
        key = (tag.op, tag.index)
        if key not in made:
            made[key] = (
                _outside(graph, tag.index, tag.spec)
                if tag.op < 0
                else _item(graph, made[tag.op, -1], tag.index, tag.spec)
            )
        return made[key]

    def resolve(arg: Any) -> Any:
        if isinstance(arg, Tag):
            return node_of(arg)
        return [resolve(item) for item in arg] if isinstance(arg, list) else arg

    for index, (call, op) in enumerate(zip(calls, ops, strict=True)):
        args = tuple(resolve(arg) for arg in call.args)
        node = graph.call_function(call.func, args, {name: resolve(arg) for name, arg in call.kwargs.items()})
        _describe(node, op)
        made[index, -1] = node
        if len(op.outputs) == 1 and not _returns_list(call.func):
            made[index, 0] = node
    graph.output(None)
    return graph


def _returns_list(func: Any) -> bool:
    returns = func._schema.returns
    return len(returns) != 1 or returns[0].type.kind() == "ListType"


def _outside(graph: Graph, number: int, spec: TensorSpec) -> Node:
    with graph.inserting_before(next(iter(graph.nodes), None)):
        node = graph.placeholder(f"outside_{number}")
    node.meta.update(shape=spec.shape, dtype=spec.dtype)
    return node


def _item(graph: Graph, node: Node, index: int, spec: TensorSpec) -> Node:
    """One of a call's results: it has a shape and dtype of its own, and comes from where the call does."""
    import operator

    item = graph.call_function(operator.getitem, (node, index))
    item.meta.update(node.meta)
    item.meta.update(shape=spec.shape, dtype=spec.dtype)
    return item


def _describe(node: Node, op: Op) -> None:
    first = op.outputs[0] if op.outputs else TensorSpec((), "")
    node.meta.update(shape=first.shape, dtype=first.dtype, module=op.module, source=op.source, phase=op.phase)
