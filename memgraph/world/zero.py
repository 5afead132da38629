"""ZeroRedundancyOptimizer's state, which ranks send each other to be saved."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.optim import zero_redundancy_optimizer as zero
from torch.utils import _pytree as pytree

from memgraph.virtual.patches import replaced

_owner: ContextVar[Any] = ContextVar("owner", default=None)


@contextlib.contextmanager
def state_is_alike(assume: Callable[[str], None]) -> Iterator[None]:
    """While open, `consolidate_state_dict` has from each rank a state like this one's: the bytes in which it is sent,
    and its tensors on the device, as `_broadcast_object` (torch/distributed/optim/zero_redundancy_optimizer.py) has.

    Args:
        assume: told of it.
    """
    consolidate, broadcast = zero.ZeroRedundancyOptimizer.consolidate_state_dict, vars(zero)["_broadcast_object"]

    def consolidated(self: Any, to: int = 0) -> None:
        token = _owner.set(self)
        try:
            consolidate(self, to)
        finally:
            _owner.reset(token)

    def received(thing: Any, src_rank: int, group: Any = None, device: Any = None) -> Any:
        if dist.get_rank() == src_rank or _owner.get() is None:
            return broadcast(thing, src_rank, group, device)
        assume("the optimizer's state on other ranks is taken to be as large as this rank's")
        return _of_rank(_owner.get(), src_rank, group, device)

    with (
        replaced(zero.ZeroRedundancyOptimizer, "consolidate_state_dict", consolidated),
        replaced(zero, "_broadcast_object", received),
    ):
        yield


def _of_rank(owner: Any, source: int, group: Any, device: Any) -> Any:
    """What another rank sends: the bytes of this one's, and of its own parameters, which another number may be, the
    state of one of these."""
    state = _like(owner.optim.state_dict(), source, group, device)
    place = dist.get_group_rank(owner.process_group, source)
    counts = [len(part["params"]) for part in owner._partition_parameters()[place]]
    groups, first = [], 0
    for part, count in zip(state["param_groups"], counts, strict=True):
        groups.append({**part, "params": list(range(first, first + count))})
        first += count
    return {**state, "param_groups": groups}


def _like(state: Any, source: int, group: Any, device: Any) -> Any:
    tensors = [leaf for leaf in pytree.tree_leaves(state) if isinstance(leaf, Tensor)]
    size = sum(tensor.numel() * tensor.element_size() for tensor in tensors)
    sent = torch.empty(size, dtype=torch.uint8, device=device)
    dist.broadcast(sent, source, group)
    return pytree.tree_map_only(Tensor, lambda tensor: tensor.to(device).clone(), state)
