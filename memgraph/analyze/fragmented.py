"""Memory that is reserved and of no use, where segments that grow would not have it: the same requests are put through
the allocator's model once more."""

from __future__ import annotations

from itertools import islice

from memgraph.analyze.finding import Finding
from memgraph.analyze.served import is_long, version_of
from memgraph.gpu.allocator.blocks import Block
from memgraph.gpu.allocator.caching import Allocator
from memgraph.gpu.allocator.config import AllocatorConfig
from memgraph.gpu.allocator.ties import NEWEST
from memgraph.trace import ENDS, Action, Trace
from memgraph.units import format_bytes

_SHOWS = 0.25
"""Share of what is reserved at most that was never allocated at once, from which on it is told."""
_LEAST = 2**29
"""Bytes: a few segments of 20 MiB are no matter."""
_IF_IT_VARIES = 0.5
"""Parts of both that do where sizes vary from step to step: then it is no matter of how a step begins."""
_LOOKED_AT = 100_000
"""Ops in which a line is looked for whose sizes vary."""
_ENDLESS = 2**62


def fragmented(trace: Trace) -> tuple[Finding, ...]:
    """Reserved far above allocated, if expandable segments bring at least half of it back."""
    peak = trace.peak
    wasted = peak.reserved - peak.allocated
    grows = "expandable_segments:True" in str(trace.settings.get("alloc_conf") or "")
    enough = max(_LEAST, _SHOWS * peak.reserved)
    if grows or wasted < _IF_IT_VARIES * enough or is_long(trace):
        return ()
    if any(buffer.stream for buffer in trace.buffers):
        return ()
    varies = _line_that_varies(trace)
    if not varies and wasted < enough:
        return ()
    least = _reserved_if_growing(trace)
    if peak.reserved - least < wasted / 2:
        return ()
    return (Finding(
        "fragmented",
        f"{format_bytes(peak.reserved)} are reserved for at most {format_bytes(peak.allocated)} at once: "
        f"{format_bytes(wasted)} lie in pieces that did not serve.",
        varies,
        "sizes that change from step to step leave free blocks that are too small for the next"
        if varies else "what is free lies in blocks that were too small for what was asked for later",
        f"PYTORCH_CUDA_ALLOC_CONF=expandable_segments:True: the same requests then reserve {format_bytes(least)}",
        peak.reserved - least,
    ),)  # fmt: skip


def _line_that_varies(trace: Trace) -> str:
    """The first line of a step whose results have another size in another step; empty where there is none. The first
    step is none of them: with it state is made."""
    shapes: dict[tuple[str, str], dict[int, list[int]]] = {}
    for op in islice(trace.ops, _LOOKED_AT):
        step = trace.phases[op.phase].step
        if step > 1 and op.source and op.outputs and op.forward < 0:
            sizes = shapes.setdefault((op.source, op.name), {}).setdefault(step, [])
            sizes.append(op.outputs[0].bytes)
    for (source, _), by_step in shapes.items():
        first, *others = by_step.values()
        if any(len(one) == len(first) and one != first for one in others):
            return source
    return ""


def _reserved_if_growing(trace: Trace) -> int:
    config = AllocatorConfig(expandable_segments=True)
    allocator = Allocator(_ENDLESS, config, torch=version_of(trace.torch) or NEWEST)
    blocks: dict[int, Block] = {}
    sizes = [buffer.size for buffer in trace.buffers]
    for action, buffer in zip(*trace.events.columns[:2], strict=True):
        if action == Action.ALLOC:
            blocks[buffer] = allocator.malloc(sizes[buffer])
        elif action in ENDS:
            allocator.free(blocks.pop(buffer))
    return allocator.peak_reserved
