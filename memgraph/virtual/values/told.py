"""What a rule of an op's memory is told of the values of its arguments, where they are known or bounded."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor, unset_fake_temporarily

from memgraph.virtual.values import known as values


def told(name: str, args: Sequence[Any]) -> Mapping[str, Any]:
    """By the name under which the rule looks for it; nothing for most ops."""
    if name == "_pack_padded_sequence":
        return {"lengths": _listed(args[1])}
    if name == "isin":
        return {"distinct": tuple(map(_most_distinct, args[:2]))}
    return {}


TOLD = frozenset({"_pack_padded_sequence", "isin"})
"""The ops of which anything is."""


def _known(tensor: Tensor) -> Tensor | None:
    return values.known(tensor) if isinstance(tensor, FakeTensor) else tensor


def _listed(tensor: Tensor) -> tuple[int, ...] | None:
    known = _known(tensor)
    return None if known is None else tuple(known.tolist())


def _most_distinct(tensor: Any) -> int:
    """How many different elements there are, or can be."""
    if not isinstance(tensor, Tensor):
        return 1
    if (known := _known(tensor)) is not None:
        with unset_fake_temporarily():
            return known.unique().numel()
    pair = None if tensor.is_floating_point() else values.bounds(tensor)
    span = tensor.numel() if pair is None else int(pair[1].max()) - int(pair[0].min()) + 1
    return min(tensor.numel(), span)
