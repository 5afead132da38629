"""Masks of attention that say less than they hold: an element for each head, or query, where one serves them all."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Collection, Sequence
from typing import NamedTuple

from memgraph.analyze.finding import Finding
from memgraph.analyze.uses import makers
from memgraph.trace import Op, TensorSpec, Trace
from memgraph.trace.alike import named
from memgraph.units import format_bytes

_SHOWS = 0.1
"""Share of the peak from which on a mask is told."""
_LARGER = 4
"""Times that a mask is larger than what it says, from which on it is."""
_FAR = 12
"""Ops between what a mask is made of and the attention that reads it: comparisons, casts, padding."""
_VIEWS = frozenset(("view", "_unsafe_view", "unsqueeze", "squeeze", "slice", "alias", "detach", "lift_fresh"))
_SPREAD = frozenset(("expand", "repeat"))
_FILLED = frozenset((
    "zeros", "zeros_like", "new_zeros", "ones", "ones_like", "new_ones", "full", "full_like", "new_full",
    "scalar_tensor", "empty", "empty_like", "new_empty", "fill", "zero",
))  # fmt: skip
"""What has one value everywhere, until something is written into it."""
_EACH = frozenset((
    "clone", "copy", "_to_copy", "bitwise_not", "logical_not", "bitwise_and", "bitwise_or", "logical_and", "logical_or",
    "masked_fill", "where", "add", "sub", "rsub", "mul", "div", "neg", "eq", "ne", "lt", "le", "gt", "ge", "log",
    "constant_pad_nd", "minimum", "maximum", "clamp", "triu", "tril",
))  # fmt: skip
"""Ops of which an element depends on those at its place alone, and on where that is."""
_BY_PLACE = frozenset(("triu", "tril"))
"""Those that leave another value at each query and key."""


class _Leaf(NamedTuple):
    """What is spread over more dimensions than it has."""

    of: TensorSpec
    source: str
    """Where it is."""
    by_place: bool = False
    """Whether each query and key has a value of its own, and heads and samples have not."""


class _Mask(NamedTuple):
    """A mask as attention is given it."""

    made: frozenset[int]
    """The ops between what it is made of and attention that have as many elements."""
    shape: tuple[int, ...]
    says: tuple[int, ...]
    """The shape that says as much."""
    of: _Leaf
    """The first of what it is made of."""


def expanded_masks(trace: Trace) -> tuple[Finding, ...]:
    """A mask that is written out over heads or queries before attention. Of a boolean one that is only expanded a
    tensor of the query's dtype is made (`convert_boolean_attn_mask`, ATen/native/transformers/attention.cpp)."""
    attentions = _attentions(trace)
    written = _written_into(trace) if attentions else set()
    masks: defaultdict[str, list[_Mask]] = defaultdict(list)
    for number in attentions:
        mask = _mask(trace, written, number)
        if mask is not None:
            masks[trace.ops[number].source].append(mask)
    alive = _by_op(trace, {one for rows in masks.values() for mask in rows for one in mask.made})
    # The mask may be at work in an attention that has not run yet at the peak: what it reads is alive all the same.
    found, seen = [], set[int]()
    for source, rows in masks.items():
        sizes = {buffer: size for mask in rows for one in mask.made for buffer, size in alive.get(one, ())}
        sizes = {buffer: size for buffer, size in sizes.items() if buffer not in seen}
        seen.update(sizes)
        if sizes and sum(sizes.values()) >= _SHOWS * trace.peak.requested:
            found.append(_wide_mask(source, sum(sizes.values()), rows[0]))
    return tuple(found)


def _attentions(trace: Trace) -> list[int]:
    return named(trace.ops, lambda name: "scaled_dot_product" in name and "backward" not in name)


def _mask(trace: Trace, written: Collection[int], attention: int) -> _Mask | None:
    """The mask that an attention reads, followed back to what it is made of; None where it says as much as it holds,
    or is made of what is not known to be small."""
    source = trace.ops[attention].source
    ahead = [(read, 0, source) for read in trace.ops[attention].reads[3:4]]
    seen, made, leaves = set[int](), set[int](), list[_Leaf]()
    whole: tuple[int, ...] = ()
    while ahead:
        number, far, reader = ahead.pop()
        op = trace.ops[number]
        if number in seen or not op.outputs:
            continue
        seen.add(number)
        name, shape = _base(op), op.outputs[0].shape
        if name in _FILLED and number not in written:
            made.add(number)
        elif whole and _LARGER * math.prod(shape) <= math.prod(whole):  # the next op spreads it
            leaves.append(_Leaf(op.outputs[0], reader))
        elif whole and name in _SPREAD and op.inputs:
            made.add(number)  # `repeat` makes one, `expand` none
            leaves.append(_Leaf(op.inputs[0], op.source))
        elif far < _FAR and (name in _EACH or name in _VIEWS or op.source == source):
            if name not in _VIEWS:
                whole = whole or shape
                made.add(number)
            if name in _BY_PLACE:
                leaves.append(_Leaf(op.outputs[0], op.source, by_place=True))
            ahead += [(read, far + 1, op.source) for read in op.reads]
        else:
            return None
    says = _union(whole, leaves)
    if not leaves or _LARGER * math.prod(says) > math.prod(whole):
        return None
    return _Mask(frozenset(made), whole, says, leaves[0])


def _union(whole: Sequence[int], leaves: Sequence[_Leaf]) -> tuple[int, ...]:
    """The shape in which they all have room, as they broadcast."""
    says = [1] * len(whole)
    for leaf in leaves:
        shape = leaf.of.shape[-2:] if leaf.by_place else leaf.of.shape
        for place in range(1, min(len(shape), len(whole)) + 1):
            says[-place] = says[-place] if shape[-place] == 1 else whole[-place]
    return tuple(says)


def _written_into(trace: Trace) -> set[int]:
    """Ops whose results are written into later, by what is not the same everywhere."""
    places = named(trace.ops, lambda name: name.partition(".")[0].endswith("_") and _plain(name) not in _FILLED)
    places = [number for number in places if _base(trace.ops[number]) not in _EACH]
    of = makers(trace) if places else []
    return {of[number] for number in places}


def _wide_mask(source: str, size: int, mask: _Mask) -> Finding:
    made = mask.of.source
    least = TensorSpec(mask.says, mask.of.of.dtype)
    return Finding(
        "expanded-mask",
        f"{format_bytes(size)} at {made} are masks of attention, {list(mask.shape)}, that say no more than "
        f"{format_bytes(least.bytes)}, {list(mask.says)}, does.",
        made,
        f"scaled_dot_product_attention at {source} takes or converts the mask as it is given, each head and query of "
        "its own",
        f"give a mask of {list(mask.says)}, without .expand(…), .repeat(…) or zeros of the whole shape: it broadcasts "
        "over heads and queries",
        size,
    )


def _by_op(trace: Trace, wanted: Collection[int]) -> dict[int, list[tuple[int, int]]]:
    """What is alive at the peak and was made by these ops: buffers and their bytes."""
    found: defaultdict[int, list[tuple[int, int]]] = defaultdict(list)
    for index in trace.live_at(trace.peak.event) if wanted else ():
        if trace.buffers[index].op in wanted:
            found[trace.buffers[index].op].append((index, trace.sizes[index]))
    return found


def _base(op: Op) -> str:
    return _plain(op.name)


def _plain(name: str) -> str:
    """`masked_fill` of `aten.masked_fill_.Scalar`."""
    return name.removeprefix("aten.").partition(".")[0].removesuffix("_")
