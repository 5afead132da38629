"""Calls and cards for the tests of the workspace rules. Not a test."""

from __future__ import annotations

from typing import Any

from memgraph.gpu.call import Call, Output, Steps, Temporary, TensorMeta
from memgraph.gpu.rules.layout import ITEMSIZE, dense
from memgraph.gpu.specs import GpuSpec, find
from memgraph.gpu.workspace import steps

H200 = find("h200")
RTX3090 = find("rtx3090")


def new(*shape: int, dtype: str = "float32") -> TensorMeta:
    """A contiguous tensor."""
    return dense(shape, dtype)


def strided(shape: tuple[int, ...], stride: tuple[int, ...], dtype: str = "float32") -> TensorMeta:
    """A tensor with strides of its own."""
    return TensorMeta(shape, stride, dtype, ITEMSIZE[dtype])


def run(
    name: str, *args: Any, out: Any = (), card: GpuSpec = H200, torch: tuple[int, int] = (2, 11), **kwargs: Any
) -> Steps | None:
    """The steps of `name` (`op` or `op.overload`) that returns the new tensors `out`."""
    op, _, overload = name.partition(".")
    outputs = (out,) if isinstance(out, TensorMeta) else tuple(out)
    return steps(Call(op, overload or "default", args, kwargs, outputs), card, torch)


def told(found: Steps | None) -> list[Any]:
    """Steps as they read: a size, `out 0`, `free 0`."""
    assert found is not None, "the rule does not know this call"
    return [_word(step) for step in found]


def _word(step: Any) -> Any:
    if isinstance(step, Temporary):
        return step.size
    return f"{'out' if isinstance(step, Output) else 'free'} {step.index}"


def allocated(found: Steps | None) -> list[Any]:
    """The same without the frees: what an allocator sees being asked for."""
    return [step for step in told(found) if not str(step).startswith("free")]
