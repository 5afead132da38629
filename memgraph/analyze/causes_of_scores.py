"""Attention that a program writes out itself, product, softmax, product, where torch's own would keep no scores."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import NamedTuple

from memgraph.analyze.finding import Finding
from memgraph.trace import Op, Role, Trace
from memgraph.trace.alike import Alike
from memgraph.units import format_bytes

_SHOWS = 0.1
"""Share of the peak from which on scores are told."""
_SOFTMAX = ("aten._softmax.", "aten._safe_softmax.")
_PRODUCTS = ("aten.bmm.", "aten.baddbmm.")
_PASSED = (
    "view", "_unsafe_view", "expand", "transpose", "permute", "unsqueeze", "squeeze", "select", "slice", "clone",
    "_to_copy", "detach", "alias", "mul", "div", "add", "sub", "masked_fill", "where",
    "native_dropout", "bernoulli",
)  # fmt: skip
"""What fused attention does too, or what only shows a tensor otherwise: between the products may be a scale, a mask, a
bias and a dropout."""
_MEANS = ("aten.mean.dim", "aten.sum.dim_IntList")
_FAR = 4096
"""Ops after a softmax in which a reader of its result is looked for."""


class _Written(NamedTuple):
    """Attention that is written out."""

    sources: frozenset[str]
    """The lines of it."""
    averaged: bool
    """Whether its weights are averaged over the heads, and this goes nowhere."""


def attention_by_hand(trace: Trace) -> tuple[Finding, ...]:
    """Scores that are alive at the peak, of attention that `scaled_dot_product_attention` could be."""
    known = {fact.source for fact in trace.facts if fact.kind == "attention by steps"}
    first: dict[str, int] = {}
    for kind in trace.alike_at(trace.peak.event):
        op, buffer = kind.op, kind.buffer
        if op is not None and op.name.startswith(_SOFTMAX) and len(buffer.shape) > 2 and op.source not in known:
            first.setdefault(op.source, buffer.op)
    rows = (_told(trace, place) for place in first.values())
    return tuple(one for one in rows if one is not None and one.bytes >= _SHOWS * trace.peak.requested)


def _told(trace: Trace, place: int) -> Finding | None:
    written = _written(trace, place)
    if written is None:
        return None
    op = trace.ops[place]
    scores = list(_scores(trace, op, written.sources))
    size, count = sum(kind.bytes for kind in scores), sum(kind.count for kind in scores)
    return Finding(
        "attention-by-hand",
        f"{format_bytes(size)} at {op.source} are scores of attention that is written out, {count:,} x "
        f"{list(op.outputs[0].shape)}: each query's with each key.",
        op.source,
        "a product, a softmax and a product hold them all at once; torch's attention makes them in parts, and "
        "anew in the backward",
        _instead(trace, op, averaged=written.averaged),
        size,
    )


def _instead(trace: Trace, op: Op, *, averaged: bool) -> str:
    if averaged:
        return "nn.MultiheadAttention's need_weights=False: attn(query, key, value, need_weights=False)"
    if op.source in dict(trace.callers):
        return "the library's option for torch's attention, as attn_implementation=\"sdpa\" in transformers"
    return "F.scaled_dot_product_attention(q, k, v, attn_mask=…, dropout_p=…, is_causal=…)"


def _scores(trace: Trace, softmax: Op, sources: frozenset[str]) -> Iterator[Alike]:
    """What is alive at the peak, made at these lines or by their backward, and has as many elements as the scores."""
    shape = softmax.outputs[0].shape
    for kind in trace.alike_at(trace.peak.event):
        here = kind.op is not None and kind.op.source in sources and kind.buffer.role is Role.OUTPUT
        if here and _elements(kind.buffer.shape) == _elements(shape) and kind.buffer.shape[-1:] == shape[-1:]:
            yield kind


def _written(trace: Trace, place: int) -> _Written | None:
    """Whether a softmax is of a product, and its result is used for nothing but another."""
    before = _before(trace, place)
    return _after(trace, place, before) if before else None


def _before(trace: Trace, place: int) -> set[str]:
    """The lines from the product to its softmax; none if what it is of is something else."""
    size = _elements(trace.ops[place].outputs[0].shape)
    found, product = {trace.ops[place].source}, False
    waiting, seen = list(trace.ops[place].reads), {place}
    while waiting and len(seen) < 64:
        index = waiting.pop()
        if index in seen:
            continue
        seen.add(index)
        op = trace.ops[index]
        if not op.outputs or _elements(op.outputs[0].shape) != size:
            continue
        if op.name.startswith(_PRODUCTS):
            product = True
        elif _is_passed(op):
            waiting += op.reads
        else:
            continue
        found.add(op.source)
    return found if product else set()


def _after(trace: Trace, place: int, found: set[str]) -> _Written | None:
    """None if the weights are read by anything else than a product with values."""
    ops, shape = trace.ops, trace.ops[place].outputs[0].shape
    same, means, product, averaged = {place}, set[int](), False, False
    for index in range(place + 1, min(place + _FAR, len(ops))):
        op = ops[index]
        if trace.phases[op.phase].name == "backward" or op.forward > -1:
            break
        if not means.isdisjoint(op.reads):
            return None
        if same.isdisjoint(op.reads):
            continue
        if op.name.startswith(_PRODUCTS) and any(spec.shape[-2:] == shape[-2:] for spec in op.inputs):
            product = True
        elif op.name.startswith(_MEANS):
            averaged = True
            means.add(index)
        elif _is_passed(op):
            same.add(index)
        else:
            return None
        found.add(op.source)
    return _Written(frozenset(found), averaged) if product else None


def _is_passed(op: Op) -> bool:
    return op.name.removeprefix("aten.").partition(".")[0].rstrip("_") in _PASSED


def _elements(shape: tuple[int, ...]) -> int:
    return math.prod(shape)
