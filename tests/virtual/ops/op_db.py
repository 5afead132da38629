"""torch's own operator database (`op_db`), each operator under the virtual GPU against CPU torch.

What is compared are looks: shape, dtype, strides, and with which input or earlier output a storage is shared, of the
results and of the gradients. Samples are made on the CPU, with values, and moved over as they lie in memory.
"""

from __future__ import annotations

import dataclasses
import random
import warnings
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch.testing._internal.common_methods_invocations import op_db
from torch.testing._internal.opinfo.core import OpInfo
from torch.utils import _pytree

SAMPLES = 8
"""The first so many of each operator and dtype."""

_FIRST_CHOICE = (
    torch.float32, torch.int64, torch.bool, torch.complex64, torch.float64, torch.int32, torch.float16, torch.uint8,
)  # fmt: skip
_ON_THE_HOST = frozenset({"tensor_split"})
"""Their integer tensors are wanted in host memory."""


def name_of(op: OpInfo) -> str:
    """`linalg.lstsq/grad_oriented`."""
    return op.name + ("/" + op.variant_test_name if op.variant_test_name else "")


def operators() -> list[OpInfo]:
    """All of them, in the database's order."""
    return list(op_db)


def dtypes_of(op: OpInfo) -> list[torch.dtype]:
    """float32, or the first that CUDA has, and bfloat16 where CUDA has it; none where the op is another device's."""
    first = [dtype for dtype in _FIRST_CHOICE if dtype in op.dtypesIfCUDA][:1]
    first = first or sorted(op.dtypesIfCUDA, key=str)[:1]
    bfloat16 = first == [torch.float32] and torch.bfloat16 in op.dtypesIfCUDA
    return [*first, torch.bfloat16] if bfloat16 else first


@dataclasses.dataclass(frozen=True)
class Sample:
    """One call, and what the CPU made of it: looks of results and gradients, or why it could not."""

    op: OpInfo
    dtype: torch.dtype
    arguments: Any
    finish: Any
    expected: Any

    @property
    def key(self) -> tuple[str, str]:
        return name_of(self.op), str(self.dtype).removeprefix("torch.")


def samples_of(op: OpInfo) -> Iterator[Sample]:
    """The first calls of an operator, made on the CPU."""
    for dtype in dtypes_of(op):
        torch.manual_seed(0)
        random.seed(0)
        np.random.seed(0)
        differentiable = op.supports_autograd and dtype in op.supported_backward_dtypes("cuda")
        made = op.sample_inputs("cpu", dtype, requires_grad=differentiable)
        for sample, _ in zip(made, range(SAMPLES), strict=False):
            arguments = sample.input, sample.args, _as_cuda_has_it(op, sample.kwargs)
            expected = _on_cpu(op, dtype, arguments, sample.output_process_fn_grad)
            yield Sample(op, dtype, arguments, sample.output_process_fn_grad, expected)


def _as_cuda_has_it(op: OpInfo, kwargs: dict[str, Any]) -> dict[str, Any]:
    """CUDA has one driver for least squares."""
    return {**kwargs, "driver": "gels"} if op.name == "linalg.lstsq" else kwargs


def _on_cpu(op: OpInfo, dtype: torch.dtype, arguments: Any, finish: Any) -> Any:
    """In float32 where only CUDA has bfloat16."""
    try:
        return looks_of(op, arguments, finish)
    except Exception as error:
        if dtype is not torch.bfloat16:
            return error
    try:
        return _as_bfloat16(looks_of(op, _pytree.tree_map(_widened, arguments), finish))
    except Exception as error:
        return error


def _widened(value: Any) -> Any:
    if isinstance(value, torch.Tensor) and value.dtype is torch.bfloat16:
        return value.detach().float().requires_grad_(value.requires_grad)
    return torch.float32 if value is torch.bfloat16 else value


def _as_bfloat16(looks: Any) -> Any:
    return _pytree.tree_map(lambda part: "bfloat16" if part == "float32" else part, looks)


def difference(sample: Sample) -> str:
    """What is otherwise on the virtual GPU that is open; empty if nothing is."""
    try:
        arguments = on_the_device(sample.op, sample.arguments)
        found = looks_of(sample.op, arguments, sample.finish)
    except Exception as error:
        return "" if isinstance(sample.expected, Exception) else f"{type(error).__name__}: {str(error)[:160]}"
    if isinstance(sample.expected, Exception):
        return f"no CPU to compare with: {str(sample.expected)[:80]}"
    for what, ours, theirs in zip(("results", "gradients"), found, sample.expected, strict=True):
        if ours != theirs:
            return f"{what} {ours}, on a CPU {theirs}"
    return ""


def looks_of(op: OpInfo, arguments: Any, finish: Any) -> tuple[list[Any], list[Any]]:
    """The looks of the results, and of the gradients of those inputs that want one."""
    inputs = _tensors(arguments)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        results = op(arguments[0], *arguments[1], **arguments[2])
        ends = [tensor for tensor in _tensors(finish(results) if finish else results) if tensor.requires_grad]
        leaves = [tensor for tensor in inputs if tensor.requires_grad]
        gradients: Any = []
        if ends and leaves:
            seeds = [torch.ones_like(tensor) for tensor in ends]
            gradients = torch.autograd.grad(ends, leaves, seeds, allow_unused=True)
    return _looks(_tensors(results), inputs), _looks(gradients, inputs)


def _tensors(tree: Any) -> list[torch.Tensor]:
    return [leaf for leaf in _pytree.tree_leaves(tree) if isinstance(leaf, torch.Tensor)]


def _looks(tensors: Any, inputs: list[torch.Tensor]) -> list[Any]:
    names: dict[int, str] = {}
    for place, tensor in enumerate(inputs):
        if tensor.layout is torch.strided:
            names.setdefault(tensor.untyped_storage()._cdata, f"of input {place}")
    return [_look(tensor, place, names) for place, tensor in enumerate(tensors)]


def _look(tensor: torch.Tensor | None, place: int, names: dict[int, str]) -> Any:
    if tensor is None:
        return None
    shape, dtype = tuple(tensor.shape), str(tensor.dtype).removeprefix("torch.")
    if tensor.layout is not torch.strided:
        return shape, dtype, str(tensor.layout)
    own = f"of result {place}"
    owner = names.setdefault(tensor.untyped_storage()._cdata, own)
    strides = tuple(stride for size, stride in zip(shape, tensor.stride(), strict=True) if size > 1)
    lies = (strides, tensor.storage_offset()) if tensor.numel() else ()
    return shape, dtype, lies, owner if owner != own else "its own"


def on_the_device(op: OpInfo, arguments: Any) -> Any:
    """The arguments with each tensor on the device as it lies in memory."""
    moved: dict[int, torch.Tensor] = {}

    def move(value: Any) -> Any:
        if isinstance(value, torch.Tensor):
            if op.name in _ON_THE_HOST and not value.is_floating_point():
                return value
            if id(value) not in moved:
                moved[id(value)] = _moved(value)
            return moved[id(value)]
        if value == "cpu" or value == torch.device("cpu"):
            return torch.device("cuda")
        return value

    return _pytree.tree_map(move, arguments)


def _moved(tensor: torch.Tensor) -> torch.Tensor:
    if tensor.layout is not torch.strided:
        there = tensor.detach().cuda()
    else:
        whole = torch.empty(0, dtype=tensor.dtype).set_(tensor.untyped_storage())
        there = whole.cuda().as_strided(tensor.shape, tensor.stride(), tensor.storage_offset()).detach()
        there = there.conj() if tensor.is_conj() else there
        there = there._neg_view() if tensor.is_neg() else there
    return there.requires_grad_(tensor.requires_grad)
