"""Reports as text for a terminal of 80 columns. The only place that uses tabulate."""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Sequence
from typing import Any

from tabulate import tabulate

from memgraph.analyze.attribution import Consumer, consumers
from memgraph.analyze.peak import Verdict, categories, verdict
from memgraph.analyze.timeline import bins
from memgraph.gpu.specs import GpuSpec, find
from memgraph.trace import Trace
from memgraph.units import format_bytes

WIDTH = 80
_BARS = "▁▂▃▄▅▆▇█"
Paint = Callable[[str, str], str]
"""Colours a text: `paint("red", text)`; the identity where colour is not wanted."""


def plain(_colour: str, text: str) -> str:
    """No colour."""
    return text


def report(trace: Trace, top: int, paint: Paint = plain, fancy: bool = False) -> str:
    """The first screen of `memgraph analyze`.

    Args:
        top: how many consumers to list.
        paint: how to colour.
        fancy: draw the timeline with block characters.
    """
    blocks = [_what(trace), _peak(trace, paint)]
    if fancy and len(trace.events):
        blocks.append(_timeline(trace, paint))
    blocks += [_categories(trace), _consumers(consumers(trace)[:top])]
    blocks += [text for text in (_notes("assumed", trace.assumptions), _notes("unknown ops", trace.unknown_ops)) if text]
    return "\n\n".join(blocks)


def gpus(cards: Sequence[GpuSpec]) -> str:
    """The catalogue."""
    rows = [
        (c.name, c.title.removeprefix("NVIDIA "), format_bytes(c.memory), format_bytes(c.memory - c.context),
         f"{c.capability[0]}.{c.capability[1]}", c.sms, f"{c.bandwidth / 1e9:,.0f}")
        for c in cards
    ]  # fmt: skip
    headers = ("name", "card", "memory", "for PyTorch", "cap.", "SMs", "GB/s")
    return _table(rows, headers, ("left", "left", "right", "right", "right", "right", "right"))


def _what(trace: Trace) -> str:
    s = trace.settings
    if "model" not in s:
        return f"{trace.origin} run on {_card(trace.gpu)}, torch {trace.torch}"
    amp = "no autocast" if s.get("amp") == "none" else f"{s.get('amp')} autocast"
    extras = [
        f"checkpoint {s['checkpoint']}" if s.get("checkpoint", "none") != "none" else "",
        f"clip {s['clip']:g}" if s.get("clip") else "",
        f"{s['accumulate']} micro-batches" if s.get("accumulate", 1) != 1 else "",
        *(f"{name}={value}" for name, value in s.get("set", {}).items()),
    ]
    seq = f", seq {s['seq']}" if s.get("seq") else ""
    parts = (f"{s['model']}: batch {s['batch']}{seq}", f"{s.get('dtype')} with {amp}", str(s.get("optimizer")), *filter(None, extras))
    text = f"{', '.join(parts)}; {s.get('steps')} steps on {_card(trace.gpu)}, torch {trace.torch}, {trace.origin}"
    return textwrap.fill(text, WIDTH)


def _card(name: str) -> str:
    try:
        return find(name).title
    except Exception:  # a measured trace names its card as the driver does
        return name


def _peak(trace: Trace, paint: Paint) -> str:
    peak, fit = trace.peak, verdict(trace)
    rows = [
        ("peak", *(format_bytes(size) for size in peak[:3])),
        ("after load", *(format_bytes(size) for size in trace.after_load)),
    ]
    table = _table(rows, ("", "requested", "allocated", "reserved"), ("left", "right", "right", "right"))
    op = peak.op.removeprefix("aten.").rpartition(".")[0] or "no op"
    place = f" in {peak.module}" if peak.module else ""
    where = f"The peak falls in the {peak.phase or 'run'} of step {peak.step}, at {op}{place}."
    return f"{table}\n\n{textwrap.fill(where, WIDTH)}\n{_verdict(fit, paint)}"


def _verdict(fit: Verdict, paint: Paint) -> str:
    if fit.fits:
        head = paint("green", f"Fits: {format_bytes(fit.margin)} of {format_bytes(fit.available)} left.")
    else:
        head = paint("red", f"Does not fit: {format_bytes(-fit.margin)} more than the {format_bytes(fit.available)} there are.")
    if not fit.fits and fit.margin >= 0:
        head = paint("red", "Does not fit: the allocator ran out of memory.")
    if not fit.context:
        return head
    return f"{head}\n" + textwrap.fill(
        f"(nvidia-smi would show about {format_bytes(fit.context)} more: the CUDA context. The card has {format_bytes(fit.memory)}.)",
        WIDTH,
    )


def _timeline(trace: Trace, paint: Paint) -> str:
    """One line of block characters, the peak marked below it."""
    columns = bins(trace, WIDTH - 2)
    top = trace.peak.requested or 1
    line = "".join(_BARS[min(len(_BARS) - 1, column.high * len(_BARS) // (top + 1))] for column in columns)
    place = next(i for i, column in enumerate(columns) if column.start <= trace.peak.event < column.stop)
    marks = "".join(
        column.phase[:1] if i == 0 or columns[i - 1].phase != column.phase else " " for i, column in enumerate(columns)
    )
    marks = marks[:place] + paint("red", "^") + marks[place + 1 :]
    return f"{line}\n{marks}  load, input, forward, backward, optimizer; ^ peak"[: WIDTH * 4]


def _categories(trace: Trace) -> str:
    rows = [(row.category, format_bytes(row.bytes), f"{100 * row.share:.1f} %", f"{row.count:,}") for row in categories(trace)]
    return _table(rows, ("at the peak", "bytes", "share", "buffers"), ("left", "right", "right", "right"))


def _consumers(rows: Sequence[Consumer]) -> str:
    room = WIDTH - 24
    table = [
        (format_bytes(row.bytes), f"{row.count:,} x", textwrap.shorten(row.provenance, 200))
        for row in rows
    ]
    wrapped = [(size, count, textwrap.fill(text, room)) for size, count, text in table]
    return _table(wrapped, ("largest", "", "what"), ("right", "right", "left"))


def _notes(title: str, notes: Sequence[str]) -> str:
    if not notes:
        return ""
    return "\n".join(textwrap.fill(f"{title}: {note}", WIDTH, subsequent_indent="  ") for note in notes)


def _table(rows: Sequence[Sequence[Any]], headers: Sequence[str], align: Sequence[str]) -> str:
    return tabulate(rows, headers, tablefmt="simple", colalign=align if rows else None, disable_numparse=True)
