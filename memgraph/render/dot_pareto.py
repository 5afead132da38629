"""The curve of peak against recompute as a picture: every point a plan that was traced."""

from __future__ import annotations

from memgraph.plan.answer import Answer, Point
from memgraph.render import dot
from memgraph.render.dot import Picture
from memgraph.units import GIB, format_bytes

_WIDTH, _HEIGHT = 560.0, 320.0
"""Points (1/72 inch) of the area between the axes."""
_BLUE, _ORANGE, _GREY = "#0072b2", "#d55e00", "#999999"
"""Okabe and Ito's, see `palette`."""


def curve(found: Answer) -> Picture:
    """The picture. A filled point fits the budget; the budget itself is a line where it is within the axes."""
    picture = dot.new("pareto", bgcolor="white", pad="0.3", splines="line", outputorder="edgesfirst")
    picture.attr("node", shape="plaintext", fontsize="10", margin="0")
    picture.attr("edge", arrowhead="none", penwidth="1")
    right = max((point.share for point in found.curve), default=0.0) * 1.08 or 1.0
    top = max((point.peak.reserved for point in found.curve), default=1) * 1.05
    _axes(picture, right, top)
    if found.budget < top:
        _line(picture, "budget", (0.0, found.budget / top), (1.0, found.budget / top), _GREY, "dashed")
        _text(picture, "budget-name", _WIDTH - 60, _HEIGHT * found.budget / top + 8, f"budget {_short(found.budget)}")
    for number, point in enumerate(found.curve):
        _point(picture, number, point, right, top, point == found.best)
    for number in range(len(found.curve) - 1):
        picture.edge(f"p{number}", f"p{number + 1}", color=_BLUE)
    return picture


def _axes(picture: Picture, right: float, top: float) -> None:
    _line(picture, "x", (0, 0), (1, 0), "#222222", "solid")
    _line(picture, "y", (0, 0), (0, 1), "#222222", "solid")
    for step in range(6):
        share = step / 5
        _text(picture, f"x-{step}", _WIDTH * share, -12, f"+{100 * right * share:.0f} %")
        _text(picture, f"y-{step}", -32, _HEIGHT * share, _short(int(top * share)))
    _text(picture, "x-name", _WIDTH / 2, -30, "time of a step, more than with everything kept")
    _text(picture, "y-name", 20, _HEIGHT + 14, "reserved peak")


def _short(size: int) -> str:
    return f"{size / GIB:.1f} GiB"


def _point(picture: Picture, number: int, point: Point, right: float, top: float, chosen: bool) -> None:
    x, y = _WIDTH * point.share / right, _HEIGHT * point.peak.reserved / top
    words = dot.text(
        f"+{100 * point.share:.1f} %: {format_bytes(point.peak.reserved)} reserved, "
        f"{format_bytes(point.peak.requested)} requested\n{point.binding}"
    )
    colour = _ORANGE if chosen else _BLUE
    picture.node(f"p{number}", label="", shape="circle", width="0.12", fixedsize="true", style="filled", color=colour,
                 fillcolor=colour if point.fits else "white", pos=_place(x, y), tooltip=words,
                 id=f"point-{number}")  # fmt: skip


def _line(
    picture: Picture, name: str, start: tuple[float, float], stop: tuple[float, float], colour: str, style: str
) -> None:
    for end, (x, y) in (("a", start), ("b", stop)):
        picture.node(f"{name}-{end}", label="", shape="point", width="0.01", pos=_place(x * _WIDTH, y * _HEIGHT),
                     color=colour)  # fmt: skip
    picture.edge(f"{name}-a", f"{name}-b", color=colour, style=style)


def _text(picture: Picture, name: str, x: float, y: float, words: str) -> None:
    picture.node(name, label=dot.text(words), pos=_place(x, y))


def _place(x: float, y: float) -> str:
    return f"{x:.1f},{y:.1f}!"
