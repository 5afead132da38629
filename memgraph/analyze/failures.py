"""Why a run was out of memory: what was asked for and by what, what was alive, what was reserved and of no use, and
what the same requests do where segments grow."""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

from memgraph.analyze.attribution import Consumer, consumers
from memgraph.analyze.causes import causes
from memgraph.analyze.finding import Finding
from memgraph.analyze.leaks import leaks
from memgraph.analyze.remedies import Remedy, told
from memgraph.analyze.served import is_long
from memgraph.gpu.allocator.caching import Allocator
from memgraph.gpu.allocator.config import AllocatorConfig
from memgraph.gpu.allocator.out_of_memory import OutOfMemory
from memgraph.gpu.allocator.rounding import SMALL_BUFFER, SMALL_SIZE
from memgraph.gpu.allocator.ties import NEWEST
from memgraph.trace import Action, Category, Op, Phase, Trace
from memgraph.units import format_bytes

_LARGEST = 3
_KINDS = 4


class Failure(NamedTuple):
    """A request that ended a run. Bytes."""

    event: int
    size: int
    """What was asked for."""
    missing: int
    """How much more than was left it needed from the card."""
    op: Op | None
    phase: Phase
    alive: int
    categories: tuple[tuple[Category, int], ...]
    """What was alive by kind, the largest first."""
    largest: tuple[Consumer, ...]
    free: int
    """Reserved and not in use."""
    piece: int
    """The largest free piece that this request might have taken."""
    other_pool: int
    """What is free in segments for requests of the other size, up to 1 MiB or above."""
    grows: bool | None
    """Whether segments that grow would have served it; None where that cannot be said."""


def failure(trace: Trace) -> Failure | None:
    """The request that ended the run; None if none did: it fitted, or went on."""
    actions = trace.events.columns[0]
    if trace.fits:
        return None
    event = len(actions) - 1 - actions[::-1].index(Action.OUT_OF_MEMORY)
    if Action.ALLOC in actions[event:]:
        return None
    size = trace.events[event].size
    usage = trace.usage_at(event)
    sizes: Counter[Category] = Counter()
    for kind in trace.alike_at(event):
        sizes[kind.buffer.category] += kind.bytes
    piece, other = _free_pieces(trace, event, small=size <= SMALL_SIZE)
    return Failure(
        event, size, max(0, size - max(0, trace.memory - usage.reserved)), trace.op_at(event), trace.phase_at(event),
        usage.requested, tuple(sizes.most_common(_KINDS)), consumers(trace, event)[:_LARGEST],
        usage.reserved - usage.allocated, piece, other, _served_if_growing(trace, event),
    )  # fmt: skip


def failures(trace: Trace, tried: Sequence[Remedy] | None = None) -> tuple[Finding, ...]:
    """The failure in words, if the run ended in one.

    Args:
        tried: what helps of the changes that the script was run with; None if it was run with none.
    """
    found = failure(trace)
    if found is None:
        return ()
    source = found.op.source if found.op else ""
    return (Finding("out-of-memory", _asked(found), source, f"{_alive(found)}. {_reserved(found)}",
                    "; ".join(remedies(trace, found, tried)), found.missing),)  # fmt: skip


def _asked(found: Failure) -> str:
    op = found.op
    by = f" by {op.name.removeprefix('aten.').rpartition('.')[0] or op.name}" if op else ""
    place = f" in {op.module}" if op and op.module else ""
    line = f", {op.source}" if op and op.source else ""
    when = f", in the {found.phase.name} of step {found.phase.step}" if found.phase.name else ""
    lacking = f"{format_bytes(found.missing)} more than was left" if found.missing else "in one piece"
    return f"{format_bytes(found.size)} were asked for{by}{place}{line}{when}: {lacking}."


def _alive(found: Failure) -> str:
    kinds = ", ".join(f"{kind} {format_bytes(size)}" for kind, size in found.categories)
    rows = ", ".join(f"{format_bytes(row.bytes)} {row.count:,} x {row.provenance}" for row in found.largest)
    return f"{format_bytes(found.alive)} were alive: {kinds}; the largest: {rows}"


def _reserved(found: Failure) -> str:
    if not found.free:
        return "Nothing reserved was free"
    text = f"{format_bytes(found.free)} were reserved but free"
    if found.size <= SMALL_SIZE or found.piece < found.size:
        text += f", its largest piece {format_bytes(found.piece)}"
    return text + (f"; {format_bytes(found.other_pool)} of it in the other pool" if found.other_pool else "")


def remedies(trace: Trace, found: Failure, tried: Sequence[Remedy] | None = None) -> list[str]:
    """What helps most, three at most: what the script was run with, and what needs its author by the bytes alive."""
    by_hand = [f"{one.where}: {one.help}" for one in leaks(trace)[:1]]
    if tried is None:
        texts = [_GROWS] * bool(found.grows) + by_hand + _estimates(trace, found)
    else:
        known = {change for row in tried for change in (row.name, row.name.partition(" ")[0])}
        rest = [one.help for one in causes(trace) if known.isdisjoint(_CHANGES.get(one.name, ()))]
        texts = by_hand + [told(row) for row in tried] + [f"{text} (not tried)" for text in rest]
    return texts[:_REMEDIES] or ["a smaller batch, or a larger card"]


_GROWS = "PYTORCH_CUDA_ALLOC_CONF=expandable_segments:True (traced: the same requests then fit up to here)"
_REMEDIES = 3
_CHANGES = {
    "cache-in-training": ("no-cache",),
    "foreach-temporaries": ("fused", "no-foreach"),
    "logits-in-fp32": ("chunked-loss",),
    "autocast-copies": ("no-autocast",),
    "fragmented": ("expandable",),
}
"""By the cause, the changes of a script that are what it says to do."""


def _estimates(trace: Trace, found: Failure) -> list[str]:
    """By the bytes that were alive."""
    texts = [one.help for one in causes(trace)[:2]]
    alive = dict(found.categories)
    trains = any(phase.name in ("backward", "optimizer") for phase in trace.phases)
    if alive.get(Category.ACTIVATION, 0) + alive.get(Category.TEMPORARY, 0) >= found.alive // 4:
        texts += ["a smaller batch", "torch.utils.checkpoint around the blocks"] if trains else ["a smaller batch"]
        texts += [] if trains else ["torch.no_grad() where nothing is trained"]
    if found.phase.name == "optimizer":
        texts += ["the optimizer with fused=True or foreach=False"]
    return texts


# What was free.


def _free_pieces(trace: Trace, event: int, *, small: bool) -> tuple[int, int]:
    """The largest free piece in the segments for such a request, and what is free in the others."""
    addresses, sizes = trace.events.columns[3:]
    segments: dict[int, int] = {}
    for place in trace.places(Action.SEGMENT_ALLOC, Action.SEGMENT_FREE):
        if place < event and trace.events[place].action is Action.SEGMENT_ALLOC:
            segments[addresses[place]] = sizes[place]
        elif place < event:
            segments.pop(addresses[place], None)
    born = map(trace.spans[0].__getitem__, trace.live_at(event))
    blocks = {addresses[place]: sizes[place] for place in born}
    ordered = sorted(blocks)
    piece = other = 0
    for start, size in segments.items():
        inside = ordered[bisect_left(ordered, start) : bisect_left(ordered, start + size)]
        gaps = _gaps(start, start + size, inside, blocks)
        if (size == SMALL_BUFFER) is small:
            piece = max(piece, *gaps, 0)
        else:
            other += sum(gaps)
    return piece, other


def _gaps(start: int, stop: int, inside: list[int], blocks: dict[int, int]) -> list[int]:
    """Free stretches of a segment."""
    gaps, at = [], start
    for address in inside:
        gaps.append(address - at)
        at = address + blocks[address]
    return [*gaps, stop - at]


def _served_if_growing(trace: Trace, event: int) -> bool | None:
    """Whether the same requests, the refused one too, fit where segments grow; not asked of a long trace."""
    if is_long(trace):
        return None
    allocator = Allocator(trace.memory, AllocatorConfig(expandable_segments=True), torch=_version(trace.torch))
    blocks = {}
    try:
        for action, buffer, *_ in trace.events[:event]:
            if action is Action.ALLOC:
                blocks[buffer] = allocator.malloc(trace.buffers[buffer].size)
            elif action is Action.FREE:
                allocator.free(blocks.pop(buffer))
        allocator.malloc(trace.events[event].size)
    except OutOfMemory:
        return False
    return True


def _version(text: str) -> tuple[int, int]:
    parts = text.split(".")
    return (int(parts[0]), int(parts[1])) if len(parts) > 1 and parts[1].isdigit() else NEWEST
