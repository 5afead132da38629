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
    return {func: functools.partial(_as_on_cuda, func, mode) for func in _existing()}


def _existing() -> list[OpOverload]:
    packets = [getattr(torch.ops.fsdp, name, None) for name in _NAMES]
    return [getattr(packet, overload) for packet in packets if packet for overload in packet.overloads()]


def _as_on_cuda(func: OpOverload, mode: Any, *args: Any, **kwargs: Any) -> Any:
    with mode:
        return func._op_dk(torch._C.DispatchKey.CUDA, *args, **kwargs)


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
