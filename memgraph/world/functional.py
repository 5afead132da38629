"""Functional collectives (`torch.ops._c10d_functional`) on tensors without values.

Their meta kernels allocate where the real ones do not, and know nothing of who holds what until somebody waits.
Source: torch/csrc/distributed/c10d/Functional.cpp.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch._ops import OpOverload
from torch.distributed import distributed_c10d as c10d
from torch.distributed._functional_collectives import AsyncCollectiveTensor

from memgraph.virtual.values import known as values
from memgraph.world.calls import Calls
from memgraph.world.nccl import Nccl
from memgraph.world.works import hold, waited_for

ops = torch.ops._c10d_functional
Kernel = Callable[..., Any]


def functional(calls: Calls, nccl: Nccl) -> Mapping[OpOverload, Kernel]:
    """A kernel for each functional collective.

    Args:
        calls: told of each call.
        nccl: told of what groups are given.
    """

    def wait(tensor: Tensor) -> Tensor:
        waited_for(tensor)
        return tensor

    def called(name: str, make: Callable[..., Tensor]) -> Kernel:
        def kernel(source: Tensor, *rest: Any, **kwargs: Any) -> Tensor:
            result = make(source, *rest, **kwargs)
            group = _group(kwargs.get("group_name", rest[-1] if rest else None))
            calls.made(name, group, [result], [source], None)
            nccl.enqueued(group, None)
            if result is not source:
                hold(result, (source,))
            return result

        return kernel

    def several(name: str, make: Callable[..., Tensor]) -> Kernel:
        one = called(name, make)

        def kernel(sources: Sequence[Tensor], *rest: Any, **kwargs: Any) -> list[Tensor]:
            return [one(source, *rest, **kwargs) for source in sources]

        return kernel

    kernels: dict[OpOverload, Kernel] = {
        ops.wait_tensor.default: wait,
        ops.all_reduce.default: called("all_reduce", _copy),
        ops.broadcast.default: called("broadcast", _copy),
        ops.all_reduce_.default: called("all_reduce", _same),
        ops.all_gather_into_tensor.default: called("all_gather", _gathered),
        ops.reduce_scatter_tensor.default: called("reduce_scatter", _scattered),
        ops.all_to_all_single.default: called("all_to_all", _exchanged),
        ops.all_reduce_coalesced.default: several("all_reduce", _copy),
        ops.all_gather_into_tensor_coalesced.default: several("all_gather", _gathered),
        ops.reduce_scatter_tensor_coalesced.default: several("reduce_scatter", _scattered),
    }
    if hasattr(ops, "_wrap_tensor_autograd"):  # torch 2.13; before, Python alone wrapped
        kernels[ops._wrap_tensor_autograd.default] = AsyncCollectiveTensor
    return kernels


def on_values() -> Mapping[OpOverload, Kernel]:
    """What comes of known values, of which each rank has the same."""
    return {
        ops.wait_tensor.default: _same,
        ops.all_reduce.default: _reduced,
        ops.all_reduce_.default: _reduced,
        ops.broadcast.default: _copy,
        ops.all_gather_into_tensor.default: lambda value, size, _group: torch.cat([value] * size),
        ops.reduce_scatter_tensor.default: lambda value, op, size, name: _reduced(value, op, name).chunk(size)[0],
        ops.all_to_all_single.default: _copy,
    }


def _reduced(value: Tensor, op: str, group: Any) -> Tensor:
    return value * _group(group).size() if op == "sum" else value.clone()


def _same(source: Tensor, *_: Any, **__: Any) -> Tensor:
    return source


def _copy(source: Tensor, *_: Any, **__: Any) -> Tensor:
    return source.clone(memory_format=torch.contiguous_format)


def _gathered(source: Tensor, size: int, *_: Any, **__: Any) -> Tensor:
    return source.new_empty((source.shape[0] * size, *source.shape[1:]))


def _scattered(source: Tensor, _op: str, size: int, *_: Any, **__: Any) -> Tensor:
    return source.new_empty((source.shape[0] // size, *source.shape[1:]))


def _exchanged(source: Tensor, received: Sequence[int], *_: Any, **__: Any) -> Tensor:
    """An all-to-all. Counts that are known come back as they are: each rank shares out as this one does."""
    result = source.new_empty((sum(received), *source.shape[1:]) if received else source.shape)
    known = values.known(source)
    if known is not None and known.shape == result.shape:
        values.remember(result, known)
    return result


def _group(name: Any) -> Any:
    return name if isinstance(name, c10d.ProcessGroup) else c10d._resolve_process_group(name)  # type: ignore[attr-defined]
