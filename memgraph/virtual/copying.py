"""`copy.deepcopy` of tensors on the virtual GPU, as for real ones: EMA copies, cloned layers, saved states."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch._subclasses.fake_tensor import FakeTensor

from memgraph.virtual.own_names import of_fakes

_STORAGES = -1
"""Key in `copy.deepcopy`'s memo, beside the ids of objects, of the storages that were copied."""


def deepcopy_fake(self: FakeTensor, memo: dict[int, Any]) -> torch.Tensor:
    """As `Tensor.__deepcopy__` (torch/_tensor.py) and `Parameter.__deepcopy__` do for real tensors: a parameter is
    cloned; of any other tensor the whole storage is, once for all tensors that share it. The original walks a fake
    tensor's `__dict__`, which leads to the mode itself.

    Raises:
        RuntimeError: the tensor is no leaf of the autograd graph, in torch's words.
    """
    if id(self) in memo:
        return memo[id(self)]
    if not self.is_leaf:
        raise RuntimeError(
            "Only Tensors created explicitly by the user (graph leaves) support the deepcopy protocol at the moment"
        )
    with torch.no_grad():
        own = _copy_parameter(self) if isinstance(self, torch.nn.Parameter) else _copy_with_storage(self, memo)
    own.requires_grad_(self.requires_grad)
    memo[id(self)] = own
    if self.grad is not None:
        own.grad = copy.deepcopy(self.grad, memo)
    for name in [name for name in vars(self) if not of_fakes(name)]:
        setattr(own, name, copy.deepcopy(vars(self)[name], memo))
    return own


def _copy_parameter(tensor: torch.Tensor) -> torch.Tensor:
    return torch.nn.Parameter(tensor.detach().clone(memory_format=torch.preserve_format), tensor.requires_grad)


def _copy_with_storage(tensor: torch.Tensor, memo: dict[int, Any]) -> torch.Tensor:
    """The same window onto a copy of the storage. (A storage's memo key is torch's own: `StorageBase.__deepcopy__`.)"""
    key = tensor.untyped_storage()._cdata
    shared: dict[int, torch.Tensor] = memo.setdefault(_STORAGES, {})
    if key not in shared:
        size = tensor.untyped_storage().nbytes() // tensor.element_size()
        shared[key] = torch.empty(size, dtype=tensor.dtype, device=tensor.device)
    tensor.new_empty([])  # one element, which is then set to the storage
    base = shared[key]
    if base.dtype != tensor.dtype:
        base = base.view(tensor.dtype)
    return base.as_strided(tensor.shape, tensor.stride(), tensor.storage_offset()).detach()
