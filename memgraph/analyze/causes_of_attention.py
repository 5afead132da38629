"""Attention whose scores are kept because no fused kernel takes it as it is given on this card."""

from __future__ import annotations

import math
from collections.abc import Iterator

from memgraph.analyze.finding import Finding
from memgraph.trace import Fact, Role, Trace
from memgraph.trace.alike import Alike, named
from memgraph.units import format_bytes

_SHOWS = 0.1
"""Share of the peak from which on scores are told."""
_SOFTMAX = ("aten._safe_softmax.", "aten._softmax.")
_HELP = (
    ("disabled", "leave fused kernels on: torch.backends.cuda.enable_flash_sdp(True), enable_mem_efficient_sdp(True)"),
    ("bfloat16 needs", "float16 for it, which this card's kernels take: torch.autocast(\"cuda\", torch.float16)"),
    ("float64", "half precision or fp32: no fused kernel takes float64"),
    ("is not a half type", "half precision: torch.autocast(\"cuda\", torch.bfloat16)"),
    ("mask's rows", "give the mask's rows side by side: attn_mask.contiguous()"),
    ("of a head are not side", "give queries, keys and values with the elements of a head side by side: .contiguous()"),
    ("grouped heads", "repeat keys and values over the heads that share them, and leave enable_gqa out"),
    ("head dimension", "heads whose dimension is a multiple of 8, or F.pad to one"),
    ("four dimensions", "give [batch, heads, length, dimension]: unsqueeze what is missing"),
)  # fmt: skip
"""By what a kernel was refused for, what lets it take the call: the first that fits."""


def attention_by_steps(trace: Trace) -> tuple[Finding, ...]:
    """Scores of attention that are alive at the peak, where each fused kernel was passed over."""
    rows = (_told(trace, fact) for fact in trace.facts if fact.kind == "attention by steps")
    found: dict[str, Finding] = {}
    for one in rows:
        if one is not None and one.bytes >= _SHOWS * trace.peak.requested:
            found.setdefault(one.where, one)
    return tuple(found.values())


def _told(trace: Trace, fact: Fact) -> Finding | None:
    scores = list(_scores(trace, fact.source))
    if not scores:
        return None
    size, count = sum(kind.bytes for kind in scores), sum(kind.count for kind in scores)
    largest = max(scores, key=lambda kind: kind.bytes / kind.count).buffer
    return Finding(
        "attention-by-steps",
        f"{format_bytes(size)} at {fact.source} are scores of attention, {count:,} x {list(largest.shape)} "
        f"{largest.dtype}: no fused kernel takes it.",
        fact.source,
        fact.text or "the math path was asked for",
        next((text for reason, text in _HELP if reason in fact.text), "what lets a fused kernel take it"),
        size,
    )


def _scores(trace: Trace, source: str) -> Iterator[Alike]:
    """What is alive at the peak, made at this line or by its backward, and has a score for each query and key."""
    shapes = {
        (math.prod(spec.shape), spec.shape[-2:])
        for op in map(trace.ops.__getitem__, named(trace.ops, lambda name: name.startswith(_SOFTMAX)))
        if op.source == source for spec in op.outputs[:1]
    }  # fmt: skip
    for kind in trace.alike_at(trace.peak.event):
        buffer = kind.buffer
        here = kind.op is not None and kind.op.source == source and buffer.role is Role.OUTPUT
        if here and (math.prod(buffer.shape), buffer.shape[-2:]) in shapes:
            yield kind
