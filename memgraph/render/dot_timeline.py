"""A run's memory as a picture: time from left to right, every band as high as its bytes."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import NamedTuple

from memgraph.analyze.bands import Band
from memgraph.analyze.strips import Chart, Piece, pieces, seen_phases
from memgraph.analyze.tell import headline, moment, story
from memgraph.render import dot
from memgraph.render.dot import Picture
from memgraph.render.palette import CURVES, ink, shades
from memgraph.trace import Trace
from memgraph.units import format_bytes

WIDTH, HEIGHT = 1000.0, 560.0
"""Of the plot, in points."""
FINE = 8
"""Graphviz rounds the sides of a box to whole points: everything is drawn so many times larger, and shown as large as
it is meant."""
_LIST = 430.0
"""Width of the list beside it."""
_LINE = 15.0
_LETTER = 5.2
"""Width of a letter of 9 points, on average."""


class Scale(NamedTuple):
    """Events and bytes to points."""

    start: int
    across: float
    """Points an event."""
    up: float
    """Points a byte."""

    def x(self, event: int) -> float:
        """Where an event is."""
        return (event - self.start) * self.across

    def y(self, size: int) -> float:
        """Where so many bytes are."""
        return size * self.up


def scale_of(chart: Chart) -> Scale:
    """The chart fills the plot, with a little room on top."""
    span = max(1, chart.window.stop - chart.window.start)
    return Scale(chart.window.start, WIDTH / span, HEIGHT / max(1, int(1.04 * max(chart.totals, default=0))))


def timeline(trace: Trace, chart: Chart, laws: Mapping[int, str] | None = None) -> Picture:
    """The picture.

    Args:
        laws: how a buffer grows, by its index, where that is known.
    """
    picture = dot.new(
        "memory", outputorder="nodesfirst", bgcolor="white", pad="0.2", splines="line",
        size=f"{(WIDTH + _LIST + 100) / 72:.3f},{(HEIGHT + 100) / 72:.3f}",
    )  # fmt: skip
    picture.attr(
        "node", shape="box", style="filled", fixedsize="true", label="", penwidth=f"{0.3 * FINE:g}",
        color="transparent", fontsize=f"{9 * FINE}",
    )  # fmt: skip
    scale = scale_of(chart)
    _phases(picture, trace, chart, scale)
    _grid(picture, chart, scale)
    colours = shades(band.category for band in chart.bands)
    for place, piece in enumerate(pieces(chart)):
        _box(picture, piece, place, scale, colours[piece.band], _tip(trace, chart.bands[piece.band], laws or {}))
    _numbers(picture, chart, scale, colours)
    _peak(picture, trace, chart, scale)
    _list(picture, trace, chart, colours)
    return picture


def _node(picture: Picture, name: str, box: tuple[float, float, float, float], **attributes: str) -> None:
    """A box by its left, bottom, right and top, in points."""
    left, bottom, right, top = box
    picture.node(
        name, pos=f"{FINE * (left + right) / 2:.6f},{FINE * (bottom + top) / 2:.6f}!",
        width=f"{FINE * (right - left) / 72:.8f}", height=f"{FINE * (top - bottom) / 72:.8f}", **attributes,
    )  # fmt: skip


def _box(picture: Picture, piece: Piece, place: int, scale: Scale, colour: str, tip: str) -> None:
    box = (scale.x(piece.start), scale.y(piece.base), scale.x(piece.stop), scale.y(piece.base + piece.height))
    _node(picture, f"b{place}", box, id=f"band-{piece.band}-{place}", fillcolor=colour, tooltip=dot.text(tip),
          color=colour)  # fmt: skip


def _words(
    picture: Picture, name: str, at: tuple[float, float], words: str, side: str = "c", size: float = 9, **more: str
) -> None:
    """Text at a point: to the right of it (`l`), to the left (`r`) or around it (`c`)."""
    width = len(words) * _LETTER * size / 9 + 8
    left = at[0] - {"l": 0, "r": width, "c": width / 2}[side]
    label = dot.text(words) + ("" if side == "c" else f"\\{side}")
    box = (left, at[1] - size * 0.7, left + width, at[1] + size * 0.7)
    _node(picture, name, box, shape="plaintext", style="", label=label, fontsize=f"{FINE * size:g}", **more)


def _phases(picture: Picture, trace: Trace, chart: Chart, scale: Scale) -> None:
    """Every other phase on grey, each with its name on top where there is room."""
    seen = set(seen_phases(trace, chart.window))
    for place, phase in enumerate(trace.phases):
        if phase not in seen:
            continue
        start, stop = max(phase.start, chart.window.start), min(phase.stop, chart.window.stop)
        if stop <= start:
            continue
        left, right = scale.x(start), scale.x(stop)
        colour = "#f2f2f2" if place % 2 else "#fafafa"
        tip = f"{phase.name}, step {phase.step}: events {phase.start} to {phase.stop - 1}"
        _node(picture, f"p{place}", (left, 0, right, HEIGHT + 18), id=f"phase-{place}", fillcolor=colour,
              tooltip=dot.text(tip))  # fmt: skip
        words = next(
            (w for w in (f"{phase.name} {phase.step or ''}".strip(), phase.name) if _fits(w, right - left)), ""
        )
        if words:
            _words(picture, f"pn{place}", ((left + right) / 2, HEIGHT + 9), words, fontcolor="#444444")


def _fits(words: str, room: float) -> bool:
    return len(words) * _LETTER + 4 <= room


def _grid(picture: Picture, chart: Chart, scale: Scale) -> None:
    """Round figures of bytes on the left, of events below."""
    for level in ticks(max(chart.totals, default=0)):
        y = scale.y(level)
        _node(picture, f"g{level}", (0, y - 0.25, WIDTH, y + 0.25), fillcolor="#cccccc")
        _words(picture, f"gl{level}", (-4, y), round_figure(level), "r", fontcolor="#444444")
    span = chart.window.stop - chart.window.start
    step = max(1, 10 ** int(math.log10(max(1, span))))
    step = next((s for s in (step // 5, step // 2, step) if s and span / s <= 8), step)
    for event in range(-(-chart.window.start // step) * step, chart.window.stop + 1, step):
        _words(picture, f"e{event}", (scale.x(event), -9), f"{event:,}", fontcolor="#444444")
    words = "time, in allocations and frees"
    _words(picture, "time", (WIDTH / 2, -24), words, fontcolor="#444444")


def round_figure(size: int) -> str:
    """Bytes without zeros that say nothing: `8 GiB`."""
    number, unit = format_bytes(size).split()
    return f"{number.rstrip('0').rstrip('.') if '.' in number else number} {unit}" if size else "0"


def ticks(most: int) -> list[int]:
    """Round figures from 0 to `most`: four to nine of them, powers of two times 1, 2, 2.5 or 5 units.

    >>> ticks(10 * 2**30) == [0, 2 * 2**30, 4 * 2**30, 6 * 2**30, 8 * 2**30, 10 * 2**30]
    True
    """
    if most <= 0:
        return [0]
    unit = 1024 ** int(math.log(most, 1024))
    steps = [unit * number for number in (1, 2, 5, 10, 20, 50, 100, 200)]
    steps = [unit // 8 or 1, unit // 4 or 1, unit // 2 or 1, *steps]
    step = next(step for step in steps if most / step <= 8)
    return list(range(0, most + 1, step))


def _numbers(picture: Picture, chart: Chart, scale: Scale, colours: tuple[str, ...]) -> None:
    """The band's number in its largest box, with its name where there is room."""
    largest: dict[int, Piece] = {}
    for piece in pieces(chart):
        largest[piece.band] = max(largest.get(piece.band, piece), piece, key=_area)
    for band, number in numbers(chart).items():
        if band not in largest:
            continue
        box = largest[band]
        room, high = (box.stop - box.start) * scale.across, box.height * scale.up
        name = f"{number}  {chart.bands[band].name}"
        words = next((w for w in (name, str(number)) if _fits(w, room) and high >= 10), "")
        if words:
            at = (scale.x(box.start) + room / 2, scale.y(box.base) + high / 2)
            _words(picture, f"n{band}", at, words, fontcolor=ink(colours[band]))


def _area(piece: Piece) -> int:
    return (piece.stop - piece.start) * piece.height


def numbers(chart: Chart) -> dict[int, int]:
    """The number of each band, from the top of the stack down: those at the highest moment, then the others."""
    there = [band for band, heights in enumerate(chart.heights) if chart.top >= 0 and heights[chart.top]][::-1]
    others = [band for band in range(len(chart.bands)) if band not in there][::-1]
    return {band: number for number, band in enumerate([*there, *others], 1)}


def _peak(picture: Picture, trace: Trace, chart: Chart, scale: Scale) -> None:
    """A line at the highest moment, and what it is."""
    if chart.top < 0:
        return
    x, high = scale.x(chart.moments[chart.top]) + scale.across / 2, scale.y(chart.totals[chart.top])
    tip = moment(trace, chart.moments[chart.top])
    _node(picture, "peak", (x - 0.5, 0, x + 0.5, HEIGHT), id="peak", fillcolor=CURVES[0], tooltip=dot.text(tip))
    words = f"{format_bytes(chart.totals[chart.top])} "
    left = x > WIDTH / 2
    _words(picture, "peak-label", (x + (-3 if left else 3), min(HEIGHT - 8, high + 8)), words, "r" if left else "l", 11,
           fontcolor=CURVES[0])  # fmt: skip


def _list(picture: Picture, trace: Trace, chart: Chart, colours: tuple[str, ...]) -> None:
    """Beside the plot, what is alive at the highest moment; above it, what the picture shows."""
    _words(picture, "title", (-4, HEIGHT + 46), headline(trace), "l", 13)
    if chart.top < 0:
        return
    _words(picture, "when", (-4, HEIGHT + 29), moment(trace, chart.moments[chart.top]), "l", 10, fontcolor="#444444")
    left, y = WIDTH + 24, HEIGHT + 9
    _words(picture, "alive", (left, y), f"alive at the peak: {format_bytes(chart.totals[chart.top])}", "l", 10)
    for band, number in numbers(chart).items():
        size = chart.heights[band][chart.top]
        y -= _LINE
        ink_ = "#000000" if size else "#777777"
        _node(picture, f"s{band}", (left, y - 5.5, left + 20, y + 5.5), fillcolor=colours[band], fontsize=f"{8 * FINE}",
              label=str(number), fontcolor=ink(colours[band]))  # fmt: skip
        _words(picture, f"sb{band}", (left + 84, y), format_bytes(size) if size else "not there", "r", fontcolor=ink_)
        _words(picture, f"sn{band}", (left + 88, y), _short(_counted(trace, chart, band)), "l", fontcolor=ink_)


def _counted(trace: Trace, chart: Chart, band: int) -> str:
    """A band's name, and how many of its buffers are alive at the highest moment."""
    moment_, (name, _, buffers, rest) = chart.moments[chart.top], chart.bands[band]
    starts, stops = trace.spans
    count = sum(starts[index] <= moment_ < stops[index] for index in buffers)
    return f"{count:,} x {name.removeprefix('output of ')}" if count > 1 and not rest else name


def _short(name: str, room: int = int((_LIST - 88) / _LETTER)) -> str:
    """Both ends of a long name: what it is, and the line it comes from."""
    return name if len(name) <= room else f"{name[: room // 2 - 1]}…{name[-room // 2 + 1 :]}"


def _tip(trace: Trace, band: Band, laws: Mapping[int, str]) -> str:
    lines = [band.name, str(band.category or "of several categories")]
    if len(band.buffers) > 1:
        lines.append(f"{len(band.buffers):,} buffers over the run")
        lines.append(f"the first: {story(trace, band.buffers[0])}" if not band.rest else "what is not told apart")
    else:
        lines.append(story(trace, band.buffers[0]))
    law = {laws[index] for index in band.buffers if index in laws}
    if len(law) == 1 and not band.rest:
        lines.append(f"grows as {law.pop()}")
    return "\n".join(lines)
