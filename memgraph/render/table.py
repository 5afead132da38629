"""Reports as text for a terminal of 80 columns. The only place that uses tabulate."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import Any

from memgraph.analyze.attribution import Consumer, consumers
from memgraph.analyze.compilation import by_layer, saved_bytes
from memgraph.analyze.findings import findings
from memgraph.analyze.laws import Law
from memgraph.analyze.leaks import verdict_on_steps
from memgraph.analyze.peak import Verdict, categories, has_no_history, verdict
from memgraph.analyze.placements import reserved_interval
from memgraph.analyze.remedies import Remedy
from memgraph.analyze.steps import steps
from memgraph.analyze.streams import bounds, reserved_by_stream
from memgraph.analyze.timeline import bins
from memgraph.analyze.unasked import unasked
from memgraph.errors import UsageError
from memgraph.gpu.specs import GpuSpec, find
from memgraph.render import table_findings, table_laws
from memgraph.render.table_findings import Paint
from memgraph.render.words import WIDTH, fill, shown, tabulate
from memgraph.trace import Compilation, Saved, Trace
from memgraph.trace.garbage import no_garbage_collection
from memgraph.units import format_bytes

_SAVED = 4
"""Kinds of saved tensors that are listed."""
_RECOMPUTED = 6
_BARS = "▁▂▃▄▅▆▇█"


def plain(_colour: str, text: str) -> str:
    """No colour."""
    return text


@no_garbage_collection()  # as of `findings`
def report(
    trace: Trace,
    top: int,
    paint: Paint = plain,
    fancy: bool = False,
    laws: Mapping[Consumer, Law] = MappingProxyType({}),
    tried: Sequence[Remedy] | None = None,
) -> str:
    """The first screen of `memgraph analyze`.

    Args:
        top: how many consumers to list.
        paint: how to colour.
        fancy: draw the timeline with block characters.
        laws: how consumers grow, where that was asked for.
        tried: what helps of the changes that a script was run with.
    """
    found = findings(trace, tried)
    blocks = [_what(trace), *table_findings.blocks(found, paint), _peak(trace, paint)]
    if not found and (kept := steps(trace)):
        blocks.append(_fill(verdict_on_steps(kept)))
    if fancy and len(trace.events):
        blocks.append(_timeline(trace, paint))
    if trace.peak.requested:
        blocks.append(_categories(trace))
    if rows := consumers(trace)[:top]:
        blocks.append(table_laws.laws(laws, top) if laws else _consumers(rows))
    if trace.compilation:
        blocks.append(_compiled(trace.compilation))
    blocks += [_notes("assumed", trace.assumptions), _notes("unknown op", trace.unknown_ops)]
    blocks += [_notes("not asked", unasked(trace))]
    return "\n\n".join(filter(None, blocks))


def gpus(cards: Sequence[GpuSpec]) -> str:
    """The catalogue."""
    rows = [
        (c.name, _plain_title(c.title), _about(c) + format_bytes(c.memory), format_bytes(c.memory - c.context),
         f"{c.capability[0]}.{c.capability[1]}")
        for c in cards
    ]  # fmt: skip
    headers = ("name", "card", "memory", "for PyTorch", "cap.")
    return _table(rows, headers, ("left", "left", "right", "right", "right"))


def _plain_title(title: str) -> str:
    """The driver's title without its frills, so that a line has 80 columns."""
    for frill in ("NVIDIA ", " Generation", " GPU", " Workstation Edition"):
        title = title.replace(frill, "")
    return title if len(title) <= 26 else f"{title[:25]}…"


def _about(card: GpuSpec) -> str:
    return "~" if card.from_nearest else ""


def _what(trace: Trace) -> str:
    where = f"{_card(trace.gpu)}, torch {trace.torch}, {trace.origin}"
    settings = trace.settings
    if "model" not in settings:
        return _fill("; ".join([f"a run on {where}", *_pairs(settings)]))
    steps = f"{settings['steps']} steps " if "steps" in settings else ""
    return _fill(f"{settings['model']}: {', '.join(_chosen(settings))}; {steps}on {where}")


def _chosen(settings: Mapping[str, Any]) -> list[str]:
    """The settings that a run of the command line has, as a person says them; those that are off are left out."""
    said = {
        "batch": "batch {}", "seq": "seq {}", "dtype": "{}", "amp": "{} autocast", "optimizer": "{}",
        "checkpoint": "checkpoint {}", "clip": "clip {}", "compile": "compiled ({})",
    }  # fmt: skip
    shown = {**settings, "amp": "no" if settings.get("amp") == "none" else settings.get("amp")}
    if str(shown.get("checkpoint")).startswith("{"):  # the text of a plan
        shown["checkpoint"] = "as planned"
    texts = [text.format(shown[name]) for name, text in said.items() if shown.get(name) not in (None, "none")]
    if "mesh" in settings:
        texts += _on_the_mesh(settings)
    if settings.get("accumulate", 1) != 1:
        texts.append(f"{settings['accumulate']} micro-batches")
    fields = settings.get("set")
    return texts + _pairs(fields if isinstance(fields, Mapping) else {})


def _on_the_mesh(settings: Mapping[str, Any]) -> list[str]:
    """Which rank of how many it is, and how they share."""
    texts = [f"rank {settings['rank']} of {settings['world']} ({settings['mesh']})"]
    if settings["fsdp"] != "none":
        after = {"yes": "", "no": ", not resharded"}.get(settings["reshard"], f", resharded to {settings['reshard']}")
        reduced = f", reduced in {settings['reduce_dtype']}" if settings["reduce_dtype"] else ""
        texts.append(f"FSDP by {settings['fsdp']}{after}{reduced}")
    return texts


def _pairs(settings: Mapping[str, Any]) -> list[str]:
    return [f"{name}={value}" for name, value in settings.items()]


def _card(name: str) -> str:
    try:
        return find(name).title
    except UsageError:  # a measured trace names its card as the driver does
        return name


def _peak(trace: Trace, paint: Paint) -> str:
    rows = [
        ("peak", *(format_bytes(size) for size in trace.peak[:3])),
        ("after load", *(format_bytes(size) for size in trace.after_load)),
    ]
    table = _table(rows, ("", "requested", "allocated", "reserved"), ("left", "right", "right", "right"))
    streams = "".join(f"{_fill(text)}\n" for text in (*_streams(trace), *_placements(trace)))
    return f"{table}\n\n{_fill(_moment(trace))}\n{streams}{_verdict(verdict(trace), paint)}"


def _placements(trace: Trace) -> Iterator[str]:
    """Where the driver decides over reserved bytes."""
    found = reserved_interval(trace)
    if found is not None:
        low, high = format_bytes(found.low), format_bytes(found.high)
        why = "where the driver puts segments" + (" and when blocks come back" if trace.waits or trace.late else "")
        ties = f"of equal blocks torch {trace.torch} takes the one of the lowest address"
        yield f"Reserved is {low} to {high}, depending on {why}: {ties}."
        if found.high > trace.memory >= found.low:
            yield f"It fits in some of these placements, and not in those above {format_bytes(trace.memory)}."


def _streams(trace: Trace) -> Iterator[str]:
    """What several streams did; nothing where there was one."""
    held = reserved_by_stream(trace)
    if set(held) - {0}:
        parts = [f"{format_bytes(size)} by {f'stream {name}' if name else 'the default one'}" for name, size in
                 held.items()]  # fmt: skip
        yield f"Reserved by stream: {', '.join(parts)}."
    if trace.waits:
        active = format_bytes(trace.peak.active)
        yield f"Active at most: {active}; blocks that other streams used count until these are done."
    if rows := bounds(trace):
        parts = [f"{row.kind} {' to '.join(map(format_bytes, sorted((row.eager, row.lazy))))}" for row in rows]
        yield f"Open, for {_why_open(trace)}: {', '.join(parts)}."


def _why_open(trace: Trace) -> str:
    streams = "no wait says when other streams are done"
    if not trace.late:
        return streams
    watchdog = "nobody waits for a collective, whose tensors NCCL's group holds until its watchdog looks (100 ms)"
    return f"{streams}, and {watchdog}" if trace.waits else watchdog


def _moment(trace: Trace) -> str:
    peak = trace.peak
    if not peak.requested:
        return "Nothing was allocated."
    if has_no_history(trace):
        return "This is what was held when the snapshot was written: the file has no history."
    op = peak.op.removeprefix("aten.").rpartition(".")[0] or peak.op or "no op"
    place = f" in {peak.module}" if peak.module else ""
    if peak.phase in ("", "recorded", "before"):
        return f"The peak falls at {op}{place}." if peak.phase == "recorded" else "The peak is what was there at first."
    return f"The peak falls in the {peak.phase} of step {peak.step}, at {op}{place}."


def _verdict(fit: Verdict, paint: Paint) -> str:
    if not fit.available:
        lost = "Something was refused: it ran out of memory. " if not fit.fits else ""
        return _fill(f"{lost}It does not say on which card: --gpu or --memory says what it would have to fit.")
    if fit.fits:
        head = paint("green", f"Fits: {format_bytes(fit.margin)} of {format_bytes(fit.available)} left.")
    else:
        head = paint(
            "red", f"Does not fit: {format_bytes(-fit.margin)} more than the {format_bytes(fit.available)} there are."
        )
    if not fit.fits and fit.margin >= 0:
        head = paint("red", "Does not fit: the allocator ran out of memory.")
    if not fit.context:
        return head
    return f"{head}\n" + _fill(
        f"(nvidia-smi would show about {format_bytes(fit.context)} more: the CUDA context. "
        f"The card has {format_bytes(fit.memory)}.)"
    )


def _timeline(trace: Trace, paint: Paint) -> str:
    """One line of block characters; below it where each phase begins and where the peak is."""
    columns = bins(trace, WIDTH)
    top = trace.peak.requested or 1
    line = "".join(_BARS[column.high * len(_BARS) // (top + 1)] for column in columns)
    place = next(i for i, column in enumerate(columns) if column.start <= trace.peak.event < column.stop)
    phases = [column.phase for column in columns]
    marks = [
        shown(now[:1]) or " " if now != before else " "
        for now, before in zip(phases, [None, *phases[:-1]], strict=True)
    ]
    marks[place] = paint("red", "^")
    names = dict.fromkeys(phase.name for phase in trace.phases)
    return f"{line}\n{''.join(marks).rstrip()}\n{_fill(', '.join([*names, '^ peak']))}"


def _categories(trace: Trace) -> str:
    rows = [
        (row.category, format_bytes(row.bytes), f"{100 * row.share:.1f} %", f"{row.count:,}")
        for row in categories(trace)
    ]
    return _table(rows, ("at the peak", "bytes", "share", "buffers"), ("left", "right", "right", "right"))


def _consumers(rows: Sequence[Consumer]) -> str:
    room = WIDTH - 24
    table = [(format_bytes(row.bytes), f"{row.count:,} x", _fill(_short(row.provenance), room)) for row in rows]
    return _table(table, ("largest", "", "what"), ("right", "right", "left"))


def _compiled(made: Compilation) -> str:
    """What the compiler kept, what it computes again, and where it stopped."""
    rows = [
        (format_bytes(row.size * row.count), f"{row.count:,} x", _fill(_short(_saved(row)), WIDTH - 24))
        for row in by_layer(made)[:_SAVED]
    ]
    head = f"Compiled into {made.graphs} graphs; {format_bytes(saved_bytes(made))} saved for the backward."
    blocks = [head, _table(rows, ("saved", "", "what"), ("right", "right", "left"))] if rows else [head]
    if made.recomputed:
        again = ", ".join(f"{count} x {name}" for name, count in made.recomputed[:_RECOMPUTED])
        more = sum(count for _, count in made.recomputed[_RECOMPUTED:])
        blocks.append(_fill(f"Computed again in the backward: {again}{f', {more} more' if more else ''}."))
    if made.pools:
        blocks.append(_fill(f"CUDA graphs keep pools of their own: at most {format_bytes(made.pools)} on top."))
    blocks.append(_notes("graph break", made.breaks))
    return "\n".join(filter(None, blocks))


def _saved(row: Saved) -> str:
    place = f" in {row.module}" if row.module else ""
    return f"{row.op}{place}{f', {row.source}' if row.source else ''}"


def _notes(title: str, notes: Sequence[str]) -> str:
    return "\n".join(_fill(f"{title}: {note}", indent="  ") for note in notes)


def _fill(text: str, width: int = WIDTH, indent: str = "") -> str:
    return fill(text, width, subsequent_indent=indent)


def _short(text: str, room: int = 200) -> str:
    """Both ends of a long text: what it is, and the line it comes from."""
    return text if len(text) <= room else f"{text[: room // 2]}...{text[-room // 2 :]}"


def _table(rows: Sequence[Sequence[Any]], headers: Sequence[str], align: Sequence[str]) -> str:
    return tabulate(rows, headers, tablefmt="simple", colalign=align if rows else None, disable_numparse=True)
