"""A comparison of a prediction with a recording as text."""

from __future__ import annotations

import re
import textwrap

from memgraph.analyze.bands import short_op
from memgraph.analyze.cause import signed
from memgraph.analyze.compare import KINDS, Comparison, Difference, Figure
from memgraph.analyze.refusal import Refusal
from memgraph.analyze.served import Placed
from memgraph.analyze.streams import Bounds
from memgraph.render.words import WIDTH, fill, shown, tabulate
from memgraph.units import format_bytes

_WORDS = {
    "missing": "recorded in or after this op, not predicted: a rule is missing, or the run is another",
    "extra": "predicted, not recorded: a rule is wrong, or the run is another",
    "size": "of another size",
    "stream": "on another stream",
    "lifetime": "there longer or shorter than predicted",
}


def report(found: Comparison, top: int) -> str:
    """What `memgraph check` prints."""
    blocks = [_other_runs(found), _window(found), _matched(found), _refused(found), _peaks(found), _phases(found, top),
              _differences(found, top), _allocator(found)]  # fmt: skip
    return "\n\n".join(filter(None, blocks))


def _other_runs(found: Comparison) -> str:
    if not found.settings:
        return ""
    told = "; ".join(f"{name} {ours} predicted, {theirs} measured" for name, ours, theirs in found.settings)
    return _filled(f"These are not the same run: {told}.")


def _window(found: Comparison) -> str:
    if found.steps is None:
        return ""
    first, last = found.steps
    which = f"step {first}" if first == last else f"steps {first} to {last}"
    return _filled(f"The recording began with memory in use. It is laid beside {which} of the prediction, and what was "
                   "there at first beside what is there then, by size.")  # fmt: skip


def _matched(found: Comparison) -> str:
    share = 100 * found.matched / found.measured if found.measured else 100.0
    text = (
        f"{found.matched:,} of {found.measured:,} recorded allocations predicted to the byte, in order ({share:.2f} %)"
    )
    if found.predicted != found.matched:
        text += f"; {found.predicted - found.matched:,} predicted ones were not recorded"
    lives = f"; {found.lifetimes:,} lifetimes differ" if found.lifetimes else ""
    return _filled(text + lives + ".")


def _refused(found: Comparison) -> str:
    predicted, measured = found.refused
    if predicted is None and measured is None:
        return ""
    if predicted is None or measured is None:
        one, other = ("recording", "prediction") if predicted is None else ("prediction", "recording")
        refusal = predicted or measured
        assert refusal is not None
        text = f"The {one} is out of memory, {_refusal(refusal)}; the {other} is not."
    elif predicted.is_that_of(measured):
        text = f"Both are out of memory, {_refusal(predicted)}: the same allocation."
    else:
        text = f"The prediction is out of memory {_refusal(predicted)}; the recording {_refusal(measured)}."
    return _filled(text)


def _refusal(refusal: Refusal) -> str:
    op = f", at {short_op(refusal.op)}" if refusal.op else ""
    phase = f" in {refusal.phase} {refusal.step or ''}".rstrip() if refusal.phase else ""
    return f"asking for {format_bytes(refusal.size)} after {refusal.allocation:,} allocations{op}{phase}"


def _peaks(found: Comparison) -> str:
    rows = [
        (f"peak {kind}", _predicted(figure, found.open(kind)), format_bytes(figure.measured), off(found.ratios[kind]))
        for kind, figure in zip(KINDS, found.peaks, strict=False)
    ]
    return tabulate(rows, ("", "predicted", "measured", "off by"), tablefmt="simple", disable_numparse=True,
                    colalign=("left", "right", "right", "right"))  # fmt: skip


def _predicted(figure: Figure, ends: Bounds | None) -> str:
    """Both ends, where the order of streams leaves it open."""
    if ends is None:
        return format_bytes(figure.predicted)
    return " to ".join(format_bytes(size) for size in sorted((ends.eager, ends.lazy)))


def off(ratio: float) -> str:
    """A ratio as what it is off by: `exact`, `+0.012 %`."""
    if ratio == 1:
        return "exact"
    text = f"{100 * (ratio - 1):+.3f} %"
    return f"{text[0]}<0.001 %" if text[1:] == "0.000 %" else text


def _phases(found: Comparison, top: int) -> str:
    """Only where something is amiss, the worst first: a table of what is right is noise."""
    wrong = sorted((p for p in found.phases if p.matched != p.predicted), key=lambda p: p.matched - p.predicted)
    if not wrong:
        return ""
    rows = [(f"{p.name} {p.step or ''}".strip(), f"{p.matched:,} of {p.predicted:,}") for p in wrong[:top]]
    if wrong[top:]:
        hits, there = sum(p.matched for p in wrong[top:]), sum(p.predicted for p in wrong[top:])
        rows.append((f"{len(wrong) - top} more phases", f"{hits:,} of {there:,}"))
    right = [p for p in found.phases if p.matched == p.predicted]
    if right:
        rows.append((f"the other {len(right)}", "whole"))
    return tabulate(rows, ("phase", "matched"), tablefmt="simple", disable_numparse=True, colalign=("left", "right"))


def _differences(found: Comparison, top: int) -> str:
    if not found.differences:
        return ""
    rows = [_row(row) for row in found.differences[:top]]
    rest = found.differences[top:]
    if rest:
        effect = sum(row.effect for row in rest)
        rows.append((signed(effect), f"{sum(row.number for row in rest):,} x", "", f"{len(rest)} more kinds"))
    table = tabulate(rows, ("at the peak", "", "bytes", "what differs"), tablefmt="simple", disable_numparse=True,
                     colalign=("right", "right", "right", "left"))  # fmt: skip
    kinds = dict.fromkeys(row.kind for row in found.differences)
    return "\n".join([table, "", *(fill(f"{kind}: {_WORDS[kind]}", WIDTH) for kind in kinds)])


def _row(row: Difference) -> tuple[str, str, str, str]:
    where = f" in {row.module}" if row.module else ""
    rule = f" ({row.rule})" if row.rule else ""
    return (
        signed(row.effect), f"{row.number:,} x", signed(row.bytes),
        fill(f"{row.kind}: {row.op}{where}{rule}", WIDTH - 40, break_on_hyphens=False),
    )  # fmt: skip


def _allocator(found: Comparison) -> str:
    """Whether the model of the allocator or the capture is to blame."""
    served = found.allocator
    measured = found.peaks[1].measured, found.peaks[2].measured
    parts = [
        f"{kind} {format_bytes(own)} ({off(own / real) if real else 'exact'})"
        for kind, own, real in zip(KINDS[1:3], (served.allocated, served.reserved), measured, strict=True)
    ]
    text = f"The allocator alone, given the recorded requests: {', '.join(parts)}{_placed(found.placed)}."
    if found.versions:
        text += (
            f" The prediction is of torch {found.versions[0]}, whose allocator is another than {found.versions[1]}'s."
        )
    return _filled(text)


def _placed(placed: Placed | None) -> str:
    if placed is None:
        return ""
    text = f"; given the recorded segments too, it puts {placed.same:,} of {placed.blocks:,} blocks where PyTorch did"
    return text if placed.same == placed.blocks else f"{text}, so here the model of the allocator is wrong"


def _filled(text: str) -> str:
    """Lines of text that keep a number and its unit together."""
    return textwrap.fill(re.sub(r"(?<=\d) (?=[%KMGTB])", "\xa0", shown(text)), WIDTH).replace("\xa0", " ")
