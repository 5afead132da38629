"""Copies that need not be: of views that were small until something wrote them out, and of logits."""

from __future__ import annotations

import functools
import math
from collections import defaultdict
from collections.abc import Iterator, Sequence
from itertools import chain

from memgraph.analyze.finding import Finding
from memgraph.trace import Op, Role, TensorSpec, Trace
from memgraph.trace.alike import Alike, named
from memgraph.units import format_bytes

_SHOWS = 0.1
"""Share of the peak from which on a copy is told."""
_LARGER = 4
"""Times that an expanded view is larger than what it is of, from which on its copy is."""
_LOGITS = 1 / 3
"""Share of the peak that tensors of the logits' shape have, from which on they are told."""
_VOCABULARY = 8192
_VIEWS = frozenset(("view", "unsqueeze", "squeeze", "transpose", "permute", "slice", "select", "t", "alias", "detach"))
_FAR = 8
"""Ops between a view and what is done with it."""
_UPCASTS = (("float16", "float32"), ("bfloat16", "float32"))


def expanded_casts(trace: Trace) -> tuple[Finding, ...]:
    """A cast writes an expanded view out: `_to_copy` keeps the strides of dense tensors alone, and so makes elements
    that lie on one another each of their own (aten/src/ATen/native/TensorConversions.cpp). Not a gradient, which comes
    expanded from a sum and has to be written out."""
    casts = [
        kind for kind in trace.alike_at(trace.peak.event)
        if kind.op and _name(kind.op) == "_to_copy" and kind.op.forward < 0 and kind.buffer.role is Role.OUTPUT
    ]  # fmt: skip
    expands = casts and named(trace.ops, lambda name: _base(name) == "expand")
    lines: defaultdict[str, list[tuple[int, int]]] = defaultdict(list)
    for index in sorted(chain.from_iterable(kind.rows for kind in casts)) if expands else ():
        made = trace.buffers[index].op
        small = _expanded(trace, made)
        if small is not None:
            lines[trace.ops[made].source].append((trace.buffers[index].size, small.bytes))
    return tuple(
        _cast(source, rows) for source, rows in lines.items()
        if sum(size for size, _ in rows) >= _SHOWS * trace.peak.requested
    )  # fmt: skip


def _expanded(trace: Trace, op: int) -> TensorSpec | None:
    """What the tensor that an op reads is an expanded view of; None if it is none, or not much larger."""
    for _ in range(_FAR):
        if not trace.ops[op].reads:
            return None
        op = trace.ops[op].reads[0]
        found = trace.ops[op]
        if _name(found) == "expand" and found.inputs and found.outputs:
            small, large = found.inputs[0], found.outputs[0]
            return small if large.bytes >= _LARGER * small.bytes else None
        if _name(found) not in _VIEWS:
            return None
    return None


def _cast(source: str, rows: Sequence[tuple[int, int]]) -> Finding:
    size = sum(one for one, _ in rows)
    small = rows[0][1]
    return Finding(
        "expanded-copy",
        f"{format_bytes(size)} at {source}: a cast (autocast's, or `.to`) writes an expanded view of "
        f"{format_bytes(small)} out in full, {len(rows)} x {format_bytes(rows[0][0])}.",
        source,
        "an expanded view shares its elements; a copy in another dtype has each of its own",
        "cast before it is expanded, `x.to(dtype).expand(…)`, or let the op broadcast (matmul for bmm)",
        size,
    )


def logits_in_fp32(trace: Trace) -> tuple[Finding, ...]:
    """Logits, or their log-softmax, that are computed in half precision and copied to fp32 for the loss, with its
    results and its gradients."""
    losses = map(trace.ops.__getitem__, named(trace.ops, lambda name: _base(name) == "_log_softmax"))
    shapes = {
        math.prod(op.inputs[0].shape): op for op in losses if op.inputs and op.inputs[0].shape[-1:] >= (_VOCABULARY,)
    }
    for count, op in shapes.items():
        kinds = list(_of_count(trace, count, op.inputs[0].shape[-1]))
        size = sum(kind.bytes for kind in kinds)
        copied = _upcast(trace, op) or any(_is_upcast(kind.op) for kind in kinds if kind.op)
        if copied and size >= _LOGITS * trace.peak.requested:
            return (_logits(op, size, sum(kind.count for kind in kinds), trace.peak.requested),)
    return ()


def _of_count(trace: Trace, count: int, words: int) -> Iterator[Alike]:
    """What is alive at the peak and has as many elements, or those of a token more or less a sample."""
    for kind in trace.alike_at(trace.peak.event):
        if kind.op and kind.buffer.role is Role.OUTPUT and not kind.buffer.name and kind.op.outputs:
            spec = kind.op.outputs[0]
            elements = math.prod(spec.shape)
            if spec.shape[-1:] == (words,) and 0.9 * count <= elements <= 1.1 * count:
                yield kind


def _upcast(trace: Trace, op: Op) -> bool:
    """Whether what an op reads was half precision, and copied."""
    for _ in range(_FAR):
        if not op.reads:
            return False
        op = trace.ops[op.reads[0]]
        if _name(op) == "_to_copy":
            return _is_upcast(op)
        if _name(op) not in _VIEWS and _name(op) != "clone":
            return False
    return False


def _is_upcast(op: Op) -> bool:
    shaped = op.inputs and op.outputs  # of a recording's ops shapes are not known
    return bool(shaped) and _name(op) == "_to_copy" and (op.inputs[0].dtype, op.outputs[0].dtype) in _UPCASTS


def _logits(op: Op, size: int, count: int, peak: int) -> Finding:
    shape = list(op.inputs[0].shape)
    return Finding(
        "logits-in-fp32",
        f"{format_bytes(size)} at {op.source}, {100 * size / peak:.0f} % of the peak, are {count} tensors of the "
        f"logits' shape {shape}: copies in fp32, the log-softmax, gradients.",
        op.source,
        "the loss takes fp32, and keeps or makes a tensor of all tokens times all words at each of its steps",
        "compute it in chunks of the tokens: memgraph.models.chunked_loss.chunked_cross_entropy(head, hidden, targets, "
        "chunks=8)",
        size,
    )


def _name(op: Op) -> str:
    return _base(op.name)


@functools.lru_cache(2**12)
def _base(name: str) -> str:
    return name.removeprefix("aten.").partition(".")[0]
