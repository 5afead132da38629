"""A trace as a notebook shows it: its curve and its first screen, in one piece of HTML that needs nothing else."""

from __future__ import annotations

from html import escape

from memgraph.analyze.timeline import Bin, bins
from memgraph.render import table
from memgraph.trace import Trace
from memgraph.units import format_bytes

_WIDTH, _HEIGHT, _EDGE = 720, 120, 16
_TOP = 5
_PHASES = {"forward": "#dbe9f6", "backward": "#fde5d0", "optimizer": "#dff0dc"}


def notebook(trace: Trace) -> str:
    """The HTML."""
    text = escape(table.report(trace, _TOP))
    return f'<div>{_curve(trace)}<pre style="font-size:12px;line-height:1.25">{text}</pre></div>'


def _curve(trace: Trace) -> str:
    columns = bins(trace, _WIDTH // 2)
    top = trace.peak.requested
    if not columns or not top:
        return ""
    width = _WIDTH / len(columns)
    points = [f"{place * width:.1f},{_y(column.high, top):.1f}" for place, column in enumerate(columns)]
    line = " ".join([*points, f"{_WIDTH},{_HEIGHT}", f"0,{_HEIGHT}"])
    bands = "".join(_band(place * width, width, column) for place, column in enumerate(columns))
    label = f"{format_bytes(top)} requested at the peak"
    return (
        f'<svg viewBox="0 0 {_WIDTH} {_HEIGHT}" width="{_WIDTH}" height="{_HEIGHT}" role="img" '
        f'xmlns="http://www.w3.org/2000/svg"><title>{escape(label)}</title>{bands}'
        f'<polygon points="{line}" fill="#4c78a8" fill-opacity="0.75"/>'
        f'<text x="4" y="12" font-size="11" font-family="sans-serif">{escape(label)}</text></svg>'
    )


def _y(size: int, top: int) -> float:
    return _HEIGHT - (_HEIGHT - _EDGE) * size / top


def _band(x: float, width: float, column: Bin) -> str:
    colour = _PHASES.get(column.phase)
    return f'<rect x="{x:.1f}" y="0" width="{width + 0.5:.1f}" height="{_HEIGHT}" fill="{colour}"/>' if colour else ""
