"""Logic of what is partly known: each element lies between two bounds, and an op's result between those it gives.

An unknown boolean lies between False and True, so `True | unknown` is True; the index of a maximum among 10 lies
between 0 and 9, so it is not 12. An op that never falls when an argument rises is run on the lower bounds and on the
upper ones.
"""

from __future__ import annotations

import functools
import itertools
import operator
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch._ops import OpOverload
from torch._subclasses.fake_tensor import FakeTensor

from memgraph.virtual.values import known as values

aten = torch.ops.aten
Between = tuple[Tensor, Tensor]
"""The least and the greatest that each element can be."""
Rule = Callable[[OpOverload, "Call"], Between | None]

LIMIT = 2**16
"""Elements up to which bounds are followed."""
_SAFE = 2**40
"""Whole numbers beyond this are given up rather than overflow."""


class Call:
    """An op's arguments twice: at their lower and at their upper bounds."""

    def __init__(self, func: OpOverload, args: Sequence[Any], kwargs: Mapping[str, Any]) -> None:
        self.low, self.high = [_at(end, args) for end in (0, 1)]
        self.low_by_name, self.high_by_name = [
            {key: _at(end, [arg])[0] for key, arg in kwargs.items()} for end in (0, 1)
        ]
        for named in (self.low_by_name, self.high_by_name):
            if "device" in named:
                named["device"] = torch.device("cpu")
        self.indices = _indices_of(func)

    def ends(self, place: int) -> tuple[Any, Any]:
        """Both bounds of an argument."""
        return self.low[place], self.high[place]

    def with_known_indices(self) -> bool:
        """Whether every index among the arguments is known."""
        places = [place for place in self.indices if place < len(self.low)]
        return all(_same(self.low[place], self.high[place]) for place in places)


@functools.cache
def _indices_of(func: OpOverload) -> tuple[int, ...]:
    """The places of arguments that say which elements are read or written."""
    names = [argument.name for argument in func._schema.arguments]
    return tuple(place for place, name in enumerate(names) if name in ("index", "indices"))


class UnboundedError(Exception):
    """An argument has no bounds."""


def between(func: OpOverload, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Between | None:
    """Bounds of an op's result; None if nothing is known of it. An op that writes in place is given as it is."""
    rule, plain = rule_of(func), out_of_place(func)
    if rule is None or plain is None:
        return None
    try:
        result = rule(plain, Call(func, args, kwargs))
    except UnboundedError:
        return None
    if result is None or not isinstance(result[0], Tensor) or not all(map(_is_safe, result)):
        return None
    return result


@functools.cache
def rule_of(func: OpOverload) -> Rule | None:
    """How bounds go through an op, None if nobody knows."""
    namespace, _, name = func._schema.name.partition("::")
    if namespace != "aten" or "out" in func._overloadname.split("_"):
        return None
    return RULES.get(name) or RULES.get(name.removesuffix("_")) if out_of_place(func) is not None else None


@functools.cache
def out_of_place(func: OpOverload) -> OpOverload | None:
    """`add` for `add_`; None where there is no such op."""
    name = func._schema.name.removeprefix("aten::")
    if not func._schema.is_mutable:
        return func
    packet = getattr(aten, name.removesuffix("_"), None)
    return getattr(packet, func._overloadname or "default", None)


def _at(end: int, args: Sequence[Any]) -> list[Any]:
    return [_end(end, arg) for arg in args]


def _end(end: int, arg: Any) -> Any:
    if isinstance(arg, FakeTensor):
        pair = values.bounds(arg)
        if pair is not None:
            return pair[end]
        if arg.dtype is torch.bool and arg.numel() <= LIMIT:
            return torch.full(arg.shape, bool(end), dtype=torch.bool)
        raise UnboundedError
    if isinstance(arg, (list, tuple)):
        return _at(end, arg)
    return arg


def _same(low: Any, high: Any) -> bool:
    if isinstance(low, (list, tuple)):
        return all(map(_same, low, high))
    return torch.equal(low, high) if isinstance(low, Tensor) else bool(low == high)


def _is_safe(bound: Tensor) -> bool:
    return bound.dtype is torch.bool or bound.numel() == 0 or float(bound.abs().max()) < _SAFE


# The rules.


def _rising(func: OpOverload, call: Call) -> Between | None:
    """Never falls when an argument rises. What reads at unknown indices may give any of the elements."""
    if not call.with_known_indices() or call.low_by_name.get("alpha", 1) != 1:
        return None
    low, high = func(*call.low, **call.low_by_name), func(*call.high, **call.high_by_name)
    return low, high


def _reading(func: OpOverload, call: Call) -> Between | None:
    if call.with_known_indices():
        return _rising(func, call)
    low, high = call.ends(0)
    if low.numel() == 0:
        return None
    like = func(*call.low, **call.low_by_name)
    return torch.full_like(like, low.min()), torch.full_like(like, high.max())


def _putting(func: OpOverload, call: Call) -> Between | None:
    """What is written at unknown places may be at any."""
    if call.with_known_indices():
        return _rising(func, call)
    place = 2 if func.overloadpacket is aten.index_put else 3
    if "reduce" in call.low_by_name or any(call.low[place + 1 :]) or len(call.low) <= place:
        return None
    (low, high), (least, most) = call.ends(0), map(_as_tensor, call.ends(place))
    if least.numel() == 0:
        return low, high
    return torch.minimum(low, least.min().to(low.dtype)), torch.maximum(high, most.max().to(high.dtype))


def _falling(func: OpOverload, call: Call) -> Between:
    return func(*call.high, **call.high_by_name), func(*call.low, **call.low_by_name)


def _difference(func: OpOverload, call: Call) -> Between:
    (a, b), (c, d), rest = call.ends(0), call.ends(1), call.low[2:]
    return func(a, d, *rest, **call.low_by_name), func(b, c, *rest, **call.low_by_name)


def _difference_turned(func: OpOverload, call: Call) -> Between:
    (a, b), (c, d), rest = call.ends(0), call.ends(1), call.low[2:]
    return func(b, c, *rest, **call.low_by_name), func(a, d, *rest, **call.low_by_name)


def _at_corners(func: OpOverload, call: Call) -> Between:
    """A product's bounds are among the products of bounds, and so are a quotient's by what is not 0."""
    corners = [
        func(first, second, *call.low[2:], **call.low_by_name)
        for first, second in itertools.product(call.ends(0), call.ends(1))
    ]
    return functools.reduce(torch.minimum, corners), functools.reduce(torch.maximum, corners)


def _quotient(func: OpOverload, call: Call) -> Between | None:
    low, _ = call.ends(1)
    positive = bool((low > 0).all()) if isinstance(low, Tensor) else low > 0
    return _at_corners(func, call) if positive else None


def _remainder(func: OpOverload, call: Call) -> Between | None:
    (low, high), (by, by_too) = call.ends(0), call.ends(1)
    if isinstance(by, Tensor) or by != by_too or by <= 0:
        return None
    same = torch.div(low, by, rounding_mode="floor") == torch.div(high, by, rounding_mode="floor")
    least, most = func(low, by), func(high, by)
    return torch.where(same, least, torch.zeros_like(least)), torch.where(same, most, torch.full_like(most, by - 1))


def _truth(low: Tensor, high: Tensor) -> Between:
    """Whether it is other than 0."""
    if low.dtype is torch.bool:
        return low, high
    return (low > 0) | (high < 0), (low != 0) | (high != 0)


def _of_truth(func: OpOverload, call: Call) -> Between:
    """Rises with what its arguments are as booleans."""
    low, high = list(call.low), list(call.high)
    for place, value in enumerate(low):
        if isinstance(value, Tensor):
            low[place], high[place] = _truth(value, high[place])
    return func(*low, **call.low_by_name), func(*high, **call.high_by_name)


def _logical_not(func: OpOverload, call: Call) -> Between:
    low, high = _truth(*call.ends(0))
    return func(high), func(low)


def _cast(func: OpOverload, call: Call) -> Between:
    """To a boolean, or to another number."""
    if call.low_by_name.get("dtype") is torch.bool:
        return _truth(*call.ends(0))
    return func(*call.low, **call.low_by_name), func(*call.high, **call.high_by_name)


def _bits(func: OpOverload, call: Call) -> Between | None:
    """Of 0 and 1 alone the bits are logic."""
    ends = [*call.ends(0), *call.ends(1)]
    small = all(bool(((end == 0) | (end == 1)).all()) if isinstance(end, Tensor) else end in (0, 1) for end in ends)
    return _rising(func, call) if small else None


def _less(func: OpOverload, call: Call) -> Between:
    (a, b), (c, d) = call.ends(0), call.ends(1)
    return func(b, c), func(a, d)


def _greater(func: OpOverload, call: Call) -> Between:
    (a, b), (c, d) = call.ends(0), call.ends(1)
    return func(a, d), func(b, c)


def _equal(_: OpOverload, call: Call) -> Between:
    (a, b), (c, d) = call.ends(0), call.ends(1)
    meet = operator.and_(_as_tensor(a <= d), _as_tensor(c <= b))
    return meet & _as_tensor(a == b) & _as_tensor(c == d) & _as_tensor(a == c), meet


def _as_tensor(value: Any) -> Tensor:
    return value if isinstance(value, Tensor) else torch.tensor(value)


def _not_equal(func: OpOverload, call: Call) -> Between:
    low, high = _equal(func, call)
    return ~high, ~low


def _exclusive(func: OpOverload, call: Call) -> Between | None:
    return _not_equal(func, call) if getattr(call.low[0], "dtype", None) is torch.bool else None


def _where(func: OpOverload, call: Call) -> Between:
    """Where the condition is not known it may be either."""
    (sure, possible), (a, b), (c, d) = call.ends(0), call.ends(1), call.ends(2)
    least, most = torch.minimum(*_broadcast(a, c)), torch.maximum(*_broadcast(b, d))
    return (
        torch.where(sure, a, torch.where(possible, least, c)),
        torch.where(sure, b, torch.where(possible, most, d)),
    )


def _broadcast(first: Any, second: Any) -> list[Tensor]:
    kind = torch.result_type(first, second)
    return [part.to(kind) for part in torch.broadcast_tensors(_as_tensor(first), _as_tensor(second))]


def _masked_fill(_: OpOverload, call: Call) -> Between:
    (a, b), (sure, possible), (value, _value) = call.ends(0), call.ends(1), call.ends(2)
    value = _as_tensor(value).to(a.dtype)
    return (
        torch.where(sure, value, torch.where(possible, torch.minimum(a, value), a)),
        torch.where(sure, value, torch.where(possible, torch.maximum(b, value), b)),
    )


def _isin(_: OpOverload, call: Call) -> Between | None:
    (a, b), (c, d) = call.ends(0), call.ends(1)
    if call.low[2:] or call.low_by_name or not all(isinstance(end, Tensor) for end in (a, c)):
        return None
    c, d = c.flatten(), d.flatten()
    if a.numel() * c.numel() > values.LIMIT:
        return None
    a, b = a.unsqueeze(-1), b.unsqueeze(-1)
    meet = (a <= d) & (c <= b)
    return (meet & (a == b) & (c == d)).any(-1), meet.any(-1)


def _copy(_: OpOverload, call: Call) -> Between:
    """Into another tensor: its type, and its shape."""
    (target, _target), (low, high) = call.ends(0), call.ends(1)
    if target.dtype is torch.bool:
        low, high = _truth(low, high)
    return low.to(target.dtype).expand(target.shape), high.to(target.dtype).expand(target.shape)


_MOVES = (
    "view", "_unsafe_view", "expand", "permute", "transpose", "t", "select", "slice", "squeeze", "unsqueeze", "alias",
    "detach", "diagonal", "unfold", "as_strided", "_reshape_alias", "clone", "lift_fresh", "cat", "stack", "flip",
    "roll", "repeat", "constant_pad_nd", "tril", "triu", "slice_scatter", "select_scatter",
)  # fmt: skip
_RISING = (
    "add", "max", "min", "amax", "amin", "maximum", "minimum", "sum", "cumsum", "clamp", "clamp_min", "clamp_max",
    "scatter_add", "index_add", "fill", "zero",
)  # fmt: skip

RULES: dict[str, Rule] = {
    **dict.fromkeys((*_MOVES, *_RISING), _rising),
    **dict.fromkeys(["index_put", "scatter", "index_fill"], _putting),
    **dict.fromkeys(["index", "gather", "index_select", "take"], _reading),
    **dict.fromkeys(["neg", "bitwise_not"], _falling),
    **dict.fromkeys(["any", "all", "logical_and", "logical_or"], _of_truth),
    **dict.fromkeys(["bitwise_and", "bitwise_or", "__and__", "__or__", "__iand__", "__ior__"], _bits),
    **dict.fromkeys(["lt", "le"], _less),
    **dict.fromkeys(["gt", "ge"], _greater),
    **dict.fromkeys(["floor_divide", "div"], _quotient),
    "sub": _difference,
    "rsub": _difference_turned,
    "mul": _at_corners,
    "remainder": _remainder,
    "logical_not": _logical_not,
    "eq": _equal,
    "ne": _not_equal,
    "logical_xor": _not_equal,
    "bitwise_xor": _exclusive,
    "where": _where,
    "masked_fill": _masked_fill,
    "isin": _isin,
    "copy": _copy,
    "_to_copy": _cast,
}
"""By the op's name, that of its in-place form too."""
