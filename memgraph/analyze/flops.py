"""How much a run computes: the floating-point operations of its matrix products, convolutions and attention.

Two operations for each multiply-add, as in torch.utils.flop_counter. What is left out is bound by memory traffic.
"""

from __future__ import annotations

from collections.abc import Callable
from math import prod

from memgraph.trace import Op, TensorSpec, Trace

Shape = tuple[int, ...]


def flops(trace: Trace) -> int:
    """Of all steps."""
    return sum(map(of_op, trace.ops))


def of_op(op: Op) -> int:
    """Of one call; 0 for what is not among the products."""
    name = op.name.removeprefix("aten.").partition(".")[0]
    count = _COUNTS.get(name)
    return count(op) if count is not None else _attention(name, op)


def _product(op: Op) -> int:
    """`mm`, `bmm`, and with a summand in front `addmm`, `baddbmm`: [..., m, k] by [..., k, n]."""
    if len(op.inputs) < 2:
        return 0
    left, right = op.inputs[-2].shape, op.inputs[-1].shape
    return 2 * prod(left) * right[-1]


def _convolution(op: Op) -> int:
    return _slides(op.outputs[0], op.inputs[1].shape) if op.outputs else 0


def _convolution_backward(op: Op) -> int:
    """As much for the input's gradient as for the weight's; each only where it is asked for."""
    gradient, _, weight = op.inputs[:3]
    wanted = sum(len(output.shape) > 1 for output in op.outputs)
    return wanted * _slides(gradient, weight.shape)


def _slides(output: TensorSpec, weight: Shape) -> int:
    return 2 * prod(output.shape) * prod(weight[1:])


def _attention(name: str, op: Op) -> int:
    """Scores and their product with the values; the backward makes the scores again and has four products more."""
    if not name.startswith("_scaled_dot_product_") or len(op.inputs) < 3:
        return 0
    backward = name.endswith("_backward")
    query, key = (op.inputs[place].shape for place in ((1, 2) if backward else (0, 1)))
    return (10 if backward else 4) * prod(query) * key[-2]


_COUNTS: dict[str, Callable[[Op], int]] = {
    "mm": _product,
    "bmm": _product,
    "addmm": _product,
    "baddbmm": _product,
    "convolution": _convolution,
    "convolution_backward": _convolution_backward,
}
