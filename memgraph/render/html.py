"""A run as one page that needs nothing else: no network, no file beside it.

Texts from a run are data to the page's script, which shows them as text, or escaped here. Should one still get through
as markup, the page's content security policy lets no script run but the two whose sums it names.
"""

from __future__ import annotations

import base64
import hashlib
import html
import json
import string
from array import array
from collections.abc import Iterable, Mapping, Sequence
from importlib import resources
from typing import Any

from memgraph.analyze.attribution import describe, kind_of
from memgraph.analyze.bands import STACK, op_of, short_op
from memgraph.analyze.modules import Module, tree
from memgraph.analyze.overlay import laid_over
from memgraph.analyze.peak import verdict
from memgraph.analyze.strips import Chart, Window
from memgraph.analyze.tell import headline, moment
from memgraph.render.palette import COLOURS, shades
from memgraph.trace import Action, Trace
from memgraph.units import format_bytes

LIBRARY = "uPlot-1.6.32"


def page(
    trace: Trace,
    chart: Chart,
    laws: Mapping[int, str] | None = None,
    overlays: Sequence[Trace] = (),
    picture: bytes | None = None,
    view: Window | None = None,
) -> bytes:
    """The file's content.

    Args:
        chart: of the whole run: how to group what is drawn.
        laws: how a buffer grows, by its index, where that is known.
        overlays: runs to lay over it.
        picture: an SVG of the modules.
        view: what to show at first, instead of the whole run.
    """
    script, library = _asset("page.js"), _asset(f"{LIBRARY}.iife.min.js")
    return (
        string.Template(_asset("page.html"))
        .substitute(
            POLICY=_policy(library, script),
            TITLE=html.escape(headline(trace)),
            STYLE=_asset(f"{LIBRARY}.min.css") + _asset("page.css"),
            PEAK=html.escape(_peak(trace)),
            FIGURES=html.escape(_figures(trace)),
            MODULES=_modules(tree(trace)),
            PICTURE=_picture(picture),
            NOTES=_notes(trace, laws),
            DATA=_data(trace, chart, laws or {}, overlays, view or chart.window),
            LIBRARY=library,
            SCRIPT=script,
        )
        .encode()
    )


def _asset(name: str) -> str:
    return resources.files("memgraph.render").joinpath("assets", name).read_text(encoding="utf-8")


def _policy(*scripts: str) -> str:
    """Nothing is fetched; no script but these runs."""
    sums = (base64.b64encode(hashlib.sha256(script.encode()).digest()).decode() for script in scripts)
    allowed = " ".join(f"'sha256-{digest}'" for digest in sums)
    return f"default-src 'none'; script-src {allowed}; style-src 'unsafe-inline'; img-src data:; base-uri 'none'"


def _peak(trace: Trace) -> str:
    peak = trace.peak
    three = f"{format_bytes(peak.requested)} requested, {format_bytes(peak.allocated)} allocated, "
    return f"Peak: {three}{format_bytes(peak.reserved)} reserved; {moment(trace, peak.event)}."


def _figures(trace: Trace) -> str:
    fit = verdict(trace)
    if fit.fits:
        return f"Fits: {format_bytes(fit.margin)} of {format_bytes(fit.available)} left."
    return f"Does not fit the {format_bytes(fit.available)} there are."


def _modules(root: Module) -> str:
    """A list in a list; what has modules inside opens and closes without a script."""
    lines: list[str] = ['<ul class="tree">']
    _branch(root, "the run" if root.children else "outside any module", lines, 2)
    return "\n".join([*lines, "</ul>"])


def _branch(module: Module, name: str, lines: list[str], opened: int) -> None:
    text = f"<b>{format_bytes(module.bytes)}</b> {html.escape(name)}"
    if not module.children:
        lines.append(f'<li class="leaf">{text}</li>')
        return
    own = f", {format_bytes(module.own)} of its own" if module.own else ""
    lines.append(f"<li><details{' open' if opened > 0 else ''}><summary>{text}{own}</summary><ul>")
    for child in module.children:
        _branch(child, child.name, lines, opened - 1)
    lines.append("</ul></details></li>")


def _picture(svg: bytes | None) -> str:
    """As an image: nothing in it can run."""
    if svg is None:
        return ""
    data = base64.b64encode(svg).decode()
    title = "Modules, and what passes between them"
    return (
        f'<section aria-labelledby="picture-title"><h2 id="picture-title">{title}</h2>'
        f'<figure><img alt="Graph of the modules, coloured by what they keep for the backward" '
        f'src="data:image/svg+xml;base64,{data}"></figure></section>'
    )


def _notes(trace: Trace, laws: Mapping[int, str] | None) -> str:
    """What was assumed, what is not known, and whether laws are."""
    notes = [f"assumed: {note}" for note in trace.assumptions] + [f"unknown op: {op}" for op in trace.unknown_ops]
    if not laws:
        notes.append("How each tensor grows is not in this page: memgraph timeline --laws finds out.")
    return f"<ul>{''.join(f'<li>{html.escape(note)}</li>' for note in notes or ['nothing was assumed'])}</ul>"


class _Texts:
    """Distinct texts, and each one's place."""

    def __init__(self) -> None:
        self.places: dict[str, int] = {}

    def place(self, text: str) -> int:
        return self.places.setdefault(text, len(self.places))


def _data(trace: Trace, chart: Chart, laws: Mapping[int, str], overlays: Sequence[Trace], view: Window) -> str:
    """Columns of numbers as base64, texts once each, as JSON that cannot end its element."""
    texts = _Texts()
    actions, buffers, ops, _, sizes = trace.events.columns
    kinds, kind_of_buffer = _kinds(trace, texts, laws)
    data = {
        "peak": trace.peak.event,
        "view": list(view),
        "phases": [[phase.name, phase.step, phase.start, phase.stop] for phase in trace.phases],
        "categories": [{"name": str(category), "colour": COLOURS[category]} for category in STACK],
        "bands": [{"name": band.name, "colour": colour} for band, colour in _coloured(chart)],
        "events": {
            "action": _packed("B", map(_ACTIONS.__getitem__, actions)), "buffer": _packed("i", buffers),
            "op": _packed("i", ops), "size": _packed("d", sizes),
        },
        "ops": _ops(trace, texts),
        "buffers": {**_buffers(trace, chart, texts), "kind": _packed("i", kind_of_buffer)},
        "kinds": kinds,
        "laws": bool(laws),
        "overlays": [_overlay(trace, other) for other in overlays],
        "texts": list(texts.places),
    }  # fmt: skip
    text = json.dumps(data, separators=(",", ":"))
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


_ACTIONS = [
    int({Action.FREE_REQUESTED: Action.OUT_OF_MEMORY, Action.FREE_COMPLETED: Action.FREE}.get(action, action))
    for action in Action
]
"""What the page is told of each action: a block that waits for other streams is there until it came back. Nothing
changes where memory is out."""


def _coloured(chart: Chart) -> Iterable[tuple[Any, str]]:
    return zip(chart.bands, shades(band.category for band in chart.bands), strict=True)


def _overlay(trace: Trace, other: Trace) -> dict[str, str]:
    return {"name": _named(other, trace), "values": _packed("d", laid_over(trace, other))}


def _named(trace: Trace, base: Trace) -> str:
    """An overlay's name: where it is from, and what it has otherwise than the run below it."""
    ours, theirs = dict(base.settings), dict(trace.settings)
    other = [f"{name} {theirs[name]}" for name in theirs if theirs[name] != ours.get(name) and name in ours]
    return f"{trace.origin}: {', '.join(other) or headline(trace)}"


def _ops(trace: Trace, texts: _Texts) -> dict[str, str]:
    kinds = trace.kinds_of_ops
    ops = {kind: trace.ops[kind] for kind in dict.fromkeys(kinds)}
    names = {kind: texts.place(short_op(op.name)) for kind, op in ops.items()}
    places = {kind: texts.place(_where(op.module, op.source)) for kind, op in ops.items()}
    return {"name": _packed("i", map(names.__getitem__, kinds)), "place": _packed("i", map(places.__getitem__, kinds))}


def _where(module: str, source: str) -> str:
    return (f" in {module}" if module else "") + (f", {source}" if source else "")


def _buffers(trace: Trace, chart: Chart, texts: _Texts) -> dict[str, str]:
    of = [0] * len(trace.buffers)
    for place, band in enumerate(chart.bands):
        for index in band.buffers:
            of[index] = place
    kinds = trace.kinds_of_buffers
    buffers = {kind: trace.buffers[kind] for kind in dict.fromkeys(kinds)}
    titles = {
        kind: texts.place(describe(buffer, op_of(trace, buffer), layered=False)) for kind, buffer in buffers.items()
    }
    specs = {
        kind: texts.place(f"{list(b.shape)} {b.dtype}, {b.category}" if b.dtype else b.category)
        for kind, b in buffers.items()
    }
    return {
        "size": _packed("d", trace.sizes), "band": _packed("i", of),
        "title": _packed("i", map(titles.__getitem__, kinds)), "spec": _packed("i", map(specs.__getitem__, kinds)),
    }  # fmt: skip


def _kinds(trace: Trace, texts: _Texts, laws: Mapping[int, str]) -> tuple[list[list[Any]], Iterable[int]]:
    """The rows that the table can have: [text, category, law], and each buffer's."""
    places: dict[tuple[object, ...], int] = {}
    rows: list[list[Any]] = []
    of: dict[int, int] = {}
    for first in dict.fromkeys(trace.kinds_of_buffers):
        kind, buffer = kind_of(trace, first), trace.buffers[first]
        if kind not in places:
            places[kind] = len(rows)
            rows.append([texts.place(describe(buffer, op_of(trace, buffer))), STACK.index(buffer.category), None])
        of[first] = places[kind]
    for index in sorted(laws):
        rows[of[trace.kinds_of_buffers[index]]][2] = laws[index]
    return rows, map(of.__getitem__, trace.kinds_of_buffers)


def _packed(code: str, values: Iterable[float]) -> str:
    """A column of little-endian numbers, as the page's typed arrays read them."""
    column: array[Any] = array(code, values)
    return base64.b64encode(column.tobytes()).decode()
