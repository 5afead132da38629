"""A model's layers as a picture: the forward from top to bottom, the backward beside it, and what ties them."""

from __future__ import annotations

from memgraph.analyze.module_graph import Layer, Link, ModuleGraph
from memgraph.render import dot
from memgraph.render.dot import Picture
from memgraph.render.palette import COLOURS, ink, lighter
from memgraph.trace import Category
from memgraph.units import format_bytes

_FAINT = 0.9
"""Share of white of a layer that keeps nothing."""
_LAYERS, _SKIPS = 200, 100
"""Layers that a picture may have, and links that pass over others: dot draws both together in seconds, and with three
hundred such links among 150 layers it took half a minute. Nobody could read it either."""


def too_large(graph: ModuleGraph) -> str:
    """Why a graph is not drawn; empty if it is. Asked before graphviz is."""
    skips = sum(abs(link.stop - link.start) > 1 for link in (*graph.passes, *graph.needs))
    if len(graph.layers) <= _LAYERS and skips <= _SKIPS:
        return ""
    return (
        f"{len(graph.layers):,} modules that differ, with {skips:,} links past others, are more than a picture can "
        f"show ({_LAYERS} and {_SKIPS}); a .dot holds them all (--modules -o modules.dot)"
    )


def modules(graph: ModuleGraph) -> Picture:
    """The picture. Darker layers keep more; a dashed line is what is kept, and goes to the backward that frees it."""
    picture = dot.new(
        "modules", rankdir="TB", bgcolor="white", pad="0.2", nodesep="0.3", ranksep="0.35", newrank="true"
    )
    picture.attr("node", shape="box", style="filled,rounded", fontsize="10", margin="0.15,0.06", penwidth="0.6")
    picture.attr("edge", fontsize="9", arrowsize="0.6", penwidth="0.8")
    most = max((layer.kept for layer in graph.layers), default=0)
    for place, layer in enumerate(graph.layers):
        _layer(picture, place, layer, most)
    for link in graph.passes:
        _line(picture, f"f{link.start}", f"f{link.stop}", link, "passes")
    for link in graph.needs:
        _line(picture, f"f{link.start}", f"b{link.stop}", link, "keeps", style="dashed", color="#a05a00",
              fontcolor="#7a4500", constraint="false")  # fmt: skip
    _backward(picture, len(graph.layers))
    return picture


def _layer(picture: Picture, place: int, layer: Layer, most: int) -> None:
    """The forward's box, and the backward's on the same level."""
    colour = lighter(COLOURS[Category.ACTIVATION], _FAINT * (1 - layer.kept / most) if most else _FAINT)
    count = f" ({len(layer.modules)} modules)" if len(layer.modules) > 1 else ""
    words = dot.text(f"{layer.name}{count}\nkeeps {format_bytes(layer.kept)} in {layer.buffers:,} buffers")
    picture.node(f"f{place}", label=words, id=f"layer-{place}", fillcolor=colour, fontcolor=ink(colour),
                 tooltip=words)  # fmt: skip
    words = dot.text(f"backward of\n{layer.name}")
    picture.node(f"b{place}", label=words, id=f"backward-{place}", fillcolor="#f2f2f2", tooltip=words)
    with picture.subgraph() as level:
        level.attr(rank="same")
        level.node(f"f{place}")
        level.node(f"b{place}")


def _line(picture: Picture, start: str, stop: str, link: Link, verb: str, **look: str) -> None:
    words = format_bytes(link.bytes)
    picture.edge(start, stop, label=dot.text(f" {words} "), id=f"{verb}-{link.start}-{link.stop}",
                 tooltip=dot.text(f"{verb} {words}"), **look)  # fmt: skip


def _backward(picture: Picture, count: int) -> None:
    """From the last layer back to the first."""
    for place in range(count - 1):
        picture.edge(f"b{place}", f"b{place + 1}", dir="back", color="#999999")
