"""A checkpoint plan as text."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from itertools import groupby

from memgraph.plan.answer import Answer, Point
from memgraph.plan.plan_file import Plan, Region, kept_places
from memgraph.render.words import WIDTH, fill, tabulate
from memgraph.units import format_bytes

_KEPT = {
    "nothing": "everything", "linears": "all but the linear layers", "matmuls": "all but the matrix products",
    "attention": "all but the attention", "matmuls+attention": "all but matrix products and attention",
}  # fmt: skip
_NAMED = 3
"""Kinds of results that are named of what a region keeps."""
_WRAP = (
    "from torch.utils.checkpoint import checkpoint", "def wrap(forward):",
    "    return lambda *a, **k: checkpoint(forward, *a, use_reentrant=False, **k)",
)  # fmt: skip
_NUMBER = re.compile(r"^(.*\.)?(\d+)$")


def report(found: Answer) -> str:
    """What `memgraph checkpoint` prints."""
    blocks = [_situation(found)]
    if found.curve:
        blocks.append(_curve(found))
    if found.best is not None:
        blocks += [_plan(found.best.plan), _peaks(found, found.best), _code(found.best.plan)]
    else:
        blocks.append(_refusal(found))
    return "\n\n".join(filter(None, [*blocks, _notes(found)]))


def _situation(found: Answer) -> str:
    peak, budget = found.base.peak.reserved, format_bytes(found.budget)
    if found.base.fits:
        text = f"It fits as it is: {format_bytes(peak)} of {budget}."
    else:
        text = f"With everything kept it does not fit {budget}: it takes {format_bytes(peak)}."
    if found.best is not None and found.best is not found.base:
        text += f" With this plan it fits, for {_percent(found.best.share)} more time a step."
    return fill(text, WIDTH)


def _percent(share: float) -> str:
    return f"{100 * share:.1f} %"


def _plan(plan: Plan) -> str:
    """The regions, those alike together."""
    rows = [(f"{count} x" if count > 1 else "", text, _recompute(keep)) for text, count, keep in _grouped(plan.regions)]
    if plan.loss_chunks > 1:
        rows.append(("", "the loss", f"the logits, in {plan.loss_chunks} chunks"))
    if not rows:
        return ""
    table = [(count, fill(text, 44), fill(kept, 26)) for count, text, kept in rows]
    return tabulate(table, ("", "checkpoint", "recompute"), tablefmt="simple", disable_numparse=True)


def _recompute(keep: str) -> str:
    """What is computed again: `all but 3 mm, 1 attention, 5 others`."""
    if keep in _KEPT:
        return _KEPT[keep]
    counts = Counter[str]()
    for op, places in kept_places(keep).items():
        counts["attention" if "attention" in op else op.lstrip("_")] += len(places)
    named, others = counts.most_common(_NAMED), sum(count for _, count in counts.most_common()[_NAMED:])
    return ", ".join([f"all but {named[0][1]} {named[0][0]}", *(f"{count} {op}" for op, count in named[1:]),
                      *([f"{others} others"] if others else [])])  # fmt: skip


def _grouped(regions: Sequence[Region]) -> list[tuple[str, int, str]]:
    """Neighbours of one kind in a line: `decoder.blocks.0-11`, 12 of them."""
    rows: list[tuple[str, int, str]] = []
    for (keep, size), group in groupby(regions, key=lambda region: (region.keep, len(region.modules))):
        members = list(group)
        if size == 1:
            rows.append((", ".join(ranges(region.modules[0] for region in members)), len(members), keep))
        else:
            rows += [(f"{', '.join(ranges(region.modules))} as one", 1, keep) for region in members]
    return rows


def ranges(paths: Iterable[str]) -> list[str]:
    """Numbers in a row as one: `['a.0', 'a.1', 'a.2', 'b']` to `['a.0-2', 'b']`."""
    found: list[tuple[str, int, int]] = []
    for path in paths:
        match = _NUMBER.match(path)
        head, number = (match[1] or "", int(match[2])) if match else (path, -1)
        if found and match and found[-1][0] == head and found[-1][2] == number - 1:
            found[-1] = (head, found[-1][1], number)
        else:
            found.append((head, number, number))
    return [head if low < 0 else f"{head}{low}" if low == high else f"{head}{low}-{high}" for head, low, high in found]


def _peaks(found: Answer, best: Point) -> str:
    """Before and after, each from a trace."""
    points = [("everything kept", found.base)] + ([("with the plan", best)] if best is not found.base else [])
    rows = [
        (name, *(format_bytes(size) for size in point.peak), f"+{_percent(point.share)}" if point.share else "")
        for name, point in points
    ]
    table = tabulate(
        rows, ("peak", "requested", "allocated", "reserved", "time"), tablefmt="simple", disable_numparse=True,
        colalign=("left", "right", "right", "right", "right"),
    )  # fmt: skip
    return f"{table}\n\n{fill(_sure(found, best), WIDTH)}"


def _sure(found: Answer, best: Point) -> str:
    """What was done to know it."""
    if best is found.base:
        return f"Its peak is {best.binding}."
    same = best.predicted == best.peak.requested
    agree = "to the byte" if same else f"within {format_bytes(abs(best.predicted - best.peak.requested))}"
    text = f"Its peak is {best.binding}. The plan was applied and traced again: the foreseen peak holds {agree}."
    if found.refined:
        plans = "plan was" if found.refined == 1 else "plans were"
        text += f" {found.refined} cheaper {plans} traced before it and did not fit: what is reserved is more than "
        text += "what is requested."
    return text


def _curve(found: Answer) -> str:
    rows = [
        (f"+{_percent(point.share)}", *(format_bytes(size) for size in point.peak), "yes" if point.fits else "no",
         _short(point.plan), point.binding.removeprefix("the "))
        for point in found.curve
    ]  # fmt: skip
    table = [(*row[:5], fill(row[5], 14), fill(row[6], 18)) for row in rows]
    headers = ("time", "requested", "allocated", "reserved", "fits", "plan", "peak in")
    align = ("right", "right", "right", "right", "left", "left", "left")
    return tabulate([(*row[:2], *row[3:]) for row in table], (*headers[:2], *headers[3:]), tablefmt="simple",
                    disable_numparse=True, colalign=(*align[:2], *align[3:]))  # fmt: skip


def _short(plan: Plan) -> str:
    """How much of a plan there is."""
    modules = sum(len(region.modules) for region in plan.regions)
    parts = [f"{modules} in {len(plan.regions)}" if modules != len(plan.regions) else f"{modules}"] if modules else []
    parts += ["loss"] * (plan.loss_chunks > 1) + ["no cache"] * (not plan.use_cache)
    return ", ".join(parts) or "none"


def _refusal(found: Answer) -> str:
    """What binds, and what would help."""
    least = found.least or found.base
    text = (
        f"No plan fits {format_bytes(found.budget)}. The one with the lowest peak needs "
        f"{format_bytes(least.peak.requested)} at once and {format_bytes(least.peak.reserved)} reserved, for "
        f"{_percent(least.share)} more time; what binds is {least.binding}."
    )
    return f"{fill(text, WIDTH)}\n{fill(_help(least, found), WIDTH)}"


def _help(least: Point, found: Answer) -> str:
    """By the moment that binds."""
    if "optimizer" in least.binding:
        return (
            "There parameters, gradients and moments are alive, and no activation is: checkpointing does not help. "
            "Smaller moments do: --optimizer adamw-8bit or adafactor, --optimizer-impl loop, or fewer parameters "
            "that train: --freeze."
        )
    if least.peak.requested <= found.budget:
        return "It is the allocator's fragments that do not fit: try --alloc-conf expandable_segments:True."
    if "loss" in least.binding or "nll" in least.binding:
        return "There the logits are alive: a smaller --batch or --seq, or the loss in chunks, takes them down."
    return "A smaller --batch or --seq takes that down; `memgraph advise` tries what else there is."


def _code(plan: Plan) -> str:
    """The lines to write."""
    if plan == Plan():
        return ""
    lines = ['memgraph.apply_checkpoints(model, "plan.json")  # with -o plan.json; or:', *plain_code(plan)]
    return "\n".join(f"    {line}".rstrip() for line in lines)


def plain_code(plan: Plan) -> list[str]:
    """The same without memgraph, where torch alone can."""
    lines: list[str] = []
    whole = [region.modules[0] for region in plan.regions if region.keep == "nothing" and len(region.modules) == 1]
    if whole:
        lines += [*_WRAP, *_loops(whole)]
    if len(whole) < len(plan.regions):
        lines.append("# regions of several modules, and those that keep some results: apply_checkpoints")
    if not plan.use_cache:
        lines.append("model.config.use_cache = False")
    if plan.loss_chunks > 1:
        lines.append(f"model.loss_chunks = {plan.loss_chunks}")
    return lines


def _loops(paths: Sequence[str]) -> list[str]:
    """A loop for each run of numbered modules."""
    lines = []
    for text in ranges(paths):
        head, _, numbers = text.rpartition(".")
        low, dash, high = numbers.partition("-")
        which = f"model.{head}[{low}:{int(high) + 1}]" if dash else f"[model.get_submodule({text!r})]"
        lines += [f"for block in {which}:", "    block.forward = wrap(block.forward)"]
    return lines


def _source(found: Answer) -> str:
    """Where the card's times are from."""
    if found.measured is None:
        return f"time by a roofline of {found.options.gpu}"
    gpu, ops, of = found.measured
    return f"time as measured on {gpu} for {ops:,} of {of:,} ops besides views, by a roofline for the others,"


def _notes(found: Answer) -> str:
    stacks = " and ".join(str(size) for size in found.stacks)
    text = (
        f"{len(found.problem.options)} options at {sum(found.stacks)} candidates (stacks of {stacks}), from "
        f"{found.traces} traces; {_source(found)} and a host that takes "
        f"{found.host_call / 1000:.3g} us an op."
    )
    return "\n".join([fill(text, WIDTH), *(fill(f"note: {note}", WIDTH) for note in found.notes)])
