"""FSDP2: its own operators, which are made of others, and its shards."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, overload

import torch
import torch.distributed.fsdp  # it registers them
from torch import Tensor
from torch._ops import OpOverload
from torch.distributed.fsdp._fully_shard import _fsdp_param

from memgraph.virtual.patches import replaced

_NAMES = ("all_gather_copy_in", "split_with_sizes_copy", "chunk_cat")


def packing(mode: Any) -> Mapping[OpOverload, Callable[..., Any]]:
    """What FSDP2 packs and unpacks with (torch/distributed/fsdp/_fully_shard/_fsdp_collectives.py): the same that a
    CUDA device runs, op by op; their meta kernels say only what comes out.

    Args:
        mode: under which the ops are written down.
    """
    mixed = {func: functools.partial(_chunk_cat_mixed, mode) for func in _existing("chunk_cat_mixed_dtype")}
    return {func: functools.partial(_as_on_cuda, func, mode) for func in _existing(*_NAMES)} | mixed


def _existing(*names: str) -> list[OpOverload]:
    packets = [getattr(torch.ops.fsdp, name, None) for name in names]
    return [getattr(packet, overload) for packet in packets if packet for overload in packet.overloads()]


def _as_on_cuda(func: OpOverload, mode: Any, *args: Any, **kwargs: Any) -> Any:
    with mode:
        return func._op_dk(torch._C.DispatchKey.CUDA, *args, **kwargs)


def _chunk_cat_mixed(mode: Any, tensors: Sequence[Tensor], dim: int, num_chunks: int, *, out: Tensor) -> None:
    """torch 2.15's `fsdp::chunk_cat_mixed_dtype`, which is C++ and has a kernel in CUDA builds alone. As
    `foreach_reduce_scatter_copy_in` says of it: gradients of one type go the way of `_chunk_cat`; of a mix of bf16 and
    fp32 each type does by itself; of any other each gradient is cast first. Where in `out` a type lies is no matter."""
    by_type: dict[torch.dtype, list[Tensor]] = {}
    for tensor in tensors:
        by_type.setdefault(tensor.dtype, []).append(tensor)
    with mode:
        if len(by_type) == 1:
            torch._chunk_cat(list(tensors), dim, num_chunks, out=out)
        elif by_type.keys() == {torch.bfloat16, torch.float32} and out.dtype is torch.float32:
            start = 0
            for group in by_type.values():
                wide = sum(-(-tensor.size(dim) // num_chunks) * tensor[:1].numel() for tensor in group)
                torch._chunk_cat(group, dim, num_chunks, out=out.narrow(1, start, wide))
                start += wide
        else:
            torch._chunk_cat([tensor.to(out.dtype) for tensor in tensors], dim, num_chunks, out=out)


class Chunks(Sequence[Tensor]):
    """As `_chunk_with_empty` of torch/distributed/fsdp/_fully_shard/_fsdp_common.py cuts a parameter: `torch.chunk`,
    and empty tensors up to the number asked for. Views, each made when it is asked for: FSDP2 looks at two of them."""

    def __init__(self, whole: Tensor, count: int, dim: int) -> None:
        self._whole, self._count, self._dim = whole, count, dim
        self._step = max(-(-whole.size(dim) // count), 1)

    def __len__(self) -> int:
        return self._count

    @overload
    def __getitem__(self, index: int) -> Tensor: ...
    @overload
    def __getitem__(self, index: slice) -> list[Tensor]: ...
    def __getitem__(self, index: int | slice) -> Tensor | list[Tensor]:
        if isinstance(index, slice):
            return [self[each] for each in range(*index.indices(self._count))]
        start, size = range(self._count)[index] * self._step, self._whole.size(self._dim)
        if start >= size and start:
            return self._whole.new_empty(0)
        return self._whole.narrow(self._dim, start, min(self._step, size - start))


@contextlib.contextmanager
def shards_are_few() -> Iterator[None]:
    """While open, cutting a parameter costs the same in every world."""
    with replaced(_fsdp_param, "_chunk_with_empty", Chunks):
        yield
