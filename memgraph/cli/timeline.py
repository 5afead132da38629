"""`memgraph timeline`: draw a run."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import click

from memgraph.analyze.bands import BY
from memgraph.analyze.strips import Chart, Window, chart, window_of
from memgraph.cli.target import target_options
from memgraph.errors import MemgraphError, UsageError, unknown_name
from memgraph.files.any_file import load
from memgraph.trace import Trace
from memgraph.trace.output_file import write_file

MOST = 1_000_000
"""Events that a file for another viewer may have: it has an object of some hundred bytes for each, which the viewers
read whole."""
GRAPHVIZ = ("svg", "dot", "png", "pdf")
"""Kinds of file that graphviz makes."""


class Order(NamedTuple):
    """What is to be drawn."""

    trace: Trace
    by: str
    top: int
    phase: str | None
    around: str | None
    laws: Mapping[int, str]
    """How a buffer grows, by its index."""
    overlays: tuple[Trace, ...]
    modules: bool
    """The modules instead of the timeline."""

    @property
    def window(self) -> Window:
        """The part of the run that is asked for."""
        return window_of(self.trace, self.phase, self.around)

    @property
    def chart(self) -> Chart:
        """The stack of bands."""
        return chart(self.trace, self.by, self.top, self.window)


def _kind(output: Path) -> str:
    kind = output.suffix.lower().removeprefix(".")
    if kind not in _KINDS:
        raise unknown_name("kind of file", f".{kind}" if kind else output.name, [f".{name}" for name in _KINDS])
    return kind


def _known(_context: click.Context, _parameter: click.Parameter, output: Path) -> Path:
    """Asked before anything runs."""
    _kind(output)
    return output


@click.command(short_help="Draw it: a picture, a page, or a file for other viewers.")
@target_options
@click.option(
    "-o", "--output", required=True, type=click.Path(path_type=Path, dir_okay=False), callback=_known,
    help="What to write; its ending says what it is: .svg .dot .png .pdf .html .pickle .json",
)  # fmt: skip
@click.option("--by", type=click.Choice(BY), default="auto", show_default=True, help="What is drawn as one.")
@click.option("--top", type=click.IntRange(min=1, max=500), default=24, show_default=True,
              help="How many to tell apart; the rest is one band.")  # fmt: skip
@click.option("--phase", metavar="NAME[:STEP]", help="This phase alone: forward, backward:1.")
@click.option("--around", metavar="PEAK", help="What is around the peak, or around an event by its number.")
@click.option("--laws", is_flag=True, help="Say how each buffer grows; three more runs find out.")
@click.option(
    "--modules",
    is_flag=True,
    help="Draw the modules instead: what passes between them, and what they keep for the backward.",
)
@click.option("--overlay", multiple=True, type=click.Path(path_type=Path), metavar="TRACE",
              help="Lay another run over an .html: a recording, or the run after a change. Repeat.")  # fmt: skip
@click.option("--force", is_flag=True, help="Overwrite the file.")
def timeline(
    trace: Trace, output: Path, by: str, top: int, phase: str | None, around: str | None, laws: bool,
    modules: bool, overlay: tuple[Path, ...], force: bool,
    neighbours: Sequence[Trace] = (),
) -> None:  # fmt: skip
    """Draw memory over a run: time from left to right, every buffer as wide as its life and as high as its bytes.

    A .svg, .png or .pdf is made by graphviz, a .dot is what graphviz is given. An .html is one page that needs no
    network. A .pickle is a snapshot for pytorch.org/memory_viz, a .json a trace for ui.perfetto.dev.

    \b
    memgraph timeline --seq 512 -o step.svg
    memgraph timeline step.memgraph --by module --phase backward -o step.png
    memgraph timeline step.memgraph --modules -o modules.svg
    memgraph timeline step.memgraph --overlay measured.memgraph -o step.html
    """
    kind = _kind(output)
    if overlay and kind != "html":
        raise UsageError(f"--overlay is for a page, and {output.name} is none: write an .html")
    if modules and kind not in GRAPHVIZ:
        raise UsageError(f"--modules is for a picture, and {output.name} is none: write an .svg .dot .png or .pdf")
    if not trace.events:
        raise UsageError("the run allocated nothing: there is nothing to draw")
    if kind in ("pickle", "json") and len(trace.events) > MOST:
        raise UsageError(
            f"{len(trace.events):,} events are more than a viewer of .{kind} files opens ({MOST:,}): write an .html"
        )
    others = tuple(load(path) for path in overlay)
    order = Order(trace, by, top, phase, around, _laws(trace, neighbours) if laws else {}, others, modules)
    write_file(output, _KINDS[kind](order), force=force)


def _laws(trace: Trace, neighbours: Sequence[Trace]) -> dict[int, str]:
    """The law of each buffer that is alive at the peak."""
    from memgraph.analyze.attribution import grouped
    from memgraph.analyze.laws import laws_for

    found = laws_for(trace, neighbours)
    return {index: found[row].text for row, members in grouped(trace) for index in members if row in found}


def _graphviz(kind: str) -> Callable[[Order], bytes]:
    def draw(order: Order) -> bytes:
        from memgraph.render import dot
        from memgraph.render.dot_timeline import timeline as picture

        if order.modules:
            return _module_picture(order.trace, kind)
        return dot.rendered(picture(order.trace, order.chart, order.laws), kind, fixed=True)

    return draw


def _module_picture(trace: Trace, kind: str) -> bytes:
    from memgraph.analyze.module_graph import module_graph
    from memgraph.render import dot
    from memgraph.render.dot_modules import modules, too_large

    graph = module_graph(trace)
    if not graph.layers:
        raise MemgraphError("the run has no forward with a backward after it: there are no modules to draw")
    if kind != "dot" and (reason := too_large(graph)):
        raise MemgraphError(reason)
    return dot.rendered(modules(graph), kind, fixed=False)


def _module_picture_if_any(trace: Trace) -> bytes | None:
    """For a page, which is whole without it: `dot` may not be there, or the run no training step."""
    try:
        return _module_picture(trace, "svg")
    except MemgraphError as error:
        click.echo(f"the page is without the picture of the modules: {error}", err=True)
        return None


def _page(order: Order) -> bytes:
    from memgraph.render.html import page

    whole = chart(order.trace, order.by, order.top)
    picture = _module_picture_if_any(order.trace)
    return page(order.trace, whole, order.laws, order.overlays, picture, view=order.window)


def _snapshot(order: Order) -> bytes:
    from memgraph.render.snapshot import pickled

    return pickled(order.trace)


def _perfetto(order: Order) -> bytes:
    from memgraph.render.perfetto import chrome_trace

    return chrome_trace(order.trace)


_KINDS: dict[str, Callable[[Order], bytes]] = {
    **{kind: _graphviz(kind) for kind in GRAPHVIZ},
    "html": _page, "pickle": _snapshot, "json": _perfetto,
}  # fmt: skip
