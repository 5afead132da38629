"""How many elements of a tensor are other than 0 at most, where nobody knows which.

What is written at so many unknown places of zeros (`mask[chosen] = 1`: detectors' samples, one-hot masks) has so many
ones at most, wherever they are. The number goes with the value's storage (`Layers.most`), through copies, comparisons
and logic, and bounds a size that asks for it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch._ops import OpOverload
from torch._subclasses.fake_tensor import FakeTensor

from memgraph.virtual.values import known as values

aten = torch.ops.aten
Arguments = Sequence[Any]
ZEROS = frozenset({aten.zeros.default, aten.new_zeros.default, aten.zeros_like.default})
"""Of what they make it is known that nothing is set, whatever its type: margin losses mark classes in floats."""


def most(tensor: Any) -> int | None:
    """Elements other than 0 at most; None if nothing is known but their number. Ask with the recorder switched off."""
    value = values.value_of(tensor) if isinstance(tensor, FakeTensor) else tensor
    if not isinstance(value, Tensor):
        return None
    layers = values.layers_of(value)
    if layers is None:
        return int(value.count_nonzero())
    if layers.most is None or _repeats(value):
        return None
    return min(layers.most, value.numel())


def begin(args: Arguments, output: Any) -> None:
    """Count from here on what is set in a table of zeros; a parameter's like is an optimizer's state, and no mask."""
    if (
        isinstance(output, FakeTensor)
        and output.dim() > 1
        and output.numel() <= values.LIMIT
        and not isinstance(args[0], torch.nn.Parameter)
    ):
        values.keep(output, None, most=0)


def after(func: OpOverload, args: Arguments, kwargs: Mapping[str, Any]) -> int | None:
    """The same of an op's result, or of what it leaves in its first argument."""
    rule = _RULES.get(func._schema.name.removeprefix("aten::").removesuffix("_"))
    return rule(func, args, kwargs) if rule is not None else None


def of_storage(tensor: Tensor, new: int | None) -> int | None:
    """The same of all that is in a tensor's storage, of which the tensor itself has `new` from now on."""
    value = values.value_of(tensor)
    if value is None or new is None or _repeats(value):
        return None
    storage = value.untyped_storage()
    whole = torch.empty(0, dtype=value.dtype).set_(storage)  # type: ignore[call-overload]
    if whole.numel() == value.numel():
        return new
    layers = values.layers_of(value)
    before = int(whole.count_nonzero()) if layers is None else layers.most
    return before + new if before is not None else None


def _repeats(value: Tensor) -> bool:
    """Whether it may show an element of its storage more than once, as what is expanded does."""
    return any(step == 0 and size > 1 for step, size in zip(value.stride(), value.shape, strict=True))


# The rules.


def _written_at(elements: Callable[[Tensor, Arguments], int | None], source: int) -> Callable[..., int | None]:
    """What was there, and as many more as are written, unless these are 0."""

    def rule(_: OpOverload, args: Arguments, kwargs: Mapping[str, Any]) -> int | None:
        before, more = most(args[0]), elements(args[0], args)
        written = args[source] if len(args) > source else kwargs.get("value", kwargs.get("src"))
        if _is_zero(written):
            return before
        return before + more if before is not None and more is not None else None

    return rule


def _is_zero(written: Any) -> bool:
    return most(written) == 0 if isinstance(written, Tensor) else written == 0


def _put(target: Tensor, args: Arguments) -> int | None:
    """`target[indices]`: as many as the indices have together, in each of the dimensions that none of them is for."""
    if any(index is None for index in args[1]):
        return None
    masks = [index for index in args[1] if index.dtype in (torch.bool, torch.uint8)]
    shapes = [index.shape for index in args[1] if index.dtype not in (torch.bool, torch.uint8)]
    counts = [count for mask in masks if (count := most(mask)) is not None]
    if len(counts) < len(masks):
        return None
    dims = len(shapes) + sum(mask.dim() for mask in masks)
    return max([math.prod(torch.broadcast_shapes(*shapes)), *counts]) * math.prod(target.shape[dims:])


def _scattered(_: Tensor, args: Arguments) -> int:
    return int(args[2].numel())


def _filled(target: Tensor, args: Arguments) -> int:
    """`index_fill(target, dim, index, value)`."""
    return target.numel() // max(target.shape[args[1]], 1) * int(args[2].numel())


def _masked(target: Tensor, args: Arguments) -> int | None:
    """As many as a mask has, for each time that it is spread over the target."""
    count = most(args[1])
    return None if count is None else count * (target.numel() // max(args[1].numel(), 1))


def _same(_: OpOverload, args: Arguments, kwargs: Mapping[str, Any]) -> int | None:
    return most(args[0])


def _source(_: OpOverload, args: Arguments, kwargs: Mapping[str, Any]) -> int | None:
    """`copy(target, source)`, if it is not spread over the target."""
    return most(args[1]) if args[1].numel() == args[0].numel() else None


def _compared(func: OpOverload, args: Arguments, kwargs: Mapping[str, Any]) -> int | None:
    """With a number to which 0 does not compare."""
    number = args[1] if not isinstance(args[1], FakeTensor) else None
    if not isinstance(number, (int, float)) or bool(func(torch.zeros((), dtype=args[0].dtype), number)):
        return None
    return most(args[0])


def _together(_: OpOverload, args: Arguments, kwargs: Mapping[str, Any]) -> int | None:
    counts = [most(tensor) for tensor in args[0]]
    return None if None in counts else sum(counts)  # type: ignore[arg-type]  # no None is left


def _either(_: OpOverload, args: Arguments, kwargs: Mapping[str, Any]) -> int | None:
    counts = [most(tensor) for tensor in args[:2]]
    alike = all(isinstance(tensor, Tensor) for tensor in args[:2]) and args[0].shape == args[1].shape
    return sum(counts) if alike and None not in counts else None  # type: ignore[arg-type]  # no None is left


def _both(_: OpOverload, args: Arguments, kwargs: Mapping[str, Any]) -> int | None:
    if not all(isinstance(tensor, Tensor) for tensor in args[:2]) or args[0].shape != args[1].shape:
        return None
    return min((count for tensor in args[:2] if (count := most(tensor)) is not None), default=None)


_RULES: dict[str, Callable[[OpOverload, Arguments, Mapping[str, Any]], int | None]] = {
    **dict.fromkeys(["index_put", "_index_put_impl"], _written_at(_put, 2)),
    **dict.fromkeys(["scatter", "scatter_add"], _written_at(_scattered, 3)),
    "index_fill": _written_at(_filled, 3),
    "masked_fill": _written_at(_masked, 2),
    "masked_scatter": _written_at(_masked, 2),
    **dict.fromkeys(
        ["clone", "_to_copy", "abs", "neg", "flip", "roll", "contiguous", "_unsafe_view", "_reshape_alias"], _same
    ),
    "copy": _source,
    **dict.fromkeys(["eq", "ne", "gt", "ge", "lt", "le"], _compared),
    **dict.fromkeys(["cat", "stack"], _together),
    **dict.fromkeys(["logical_or", "bitwise_or", "__or_", "__ior_", "add", "maximum", "logical_xor"], _either),
    **dict.fromkeys(["logical_and", "bitwise_and", "__and_", "__iand_", "mul"], _both),
}
"""By the op's name, that of its in-place form too."""
