"""What a fake tensor's `__dict__` has that a real one's has not."""

from __future__ import annotations

import functools

import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import _disable_current_modes


def of_fakes(name: str) -> bool:
    """Whether a tensor has an attribute of this name because it is fake: a real one's `__dict__` has what its users
    set, and nothing else."""
    return name.startswith("_memgraph_") or name in _own_names()


@functools.cache
def _own_names() -> frozenset[str]:
    with _disable_current_modes(), FakeTensorMode():
        return frozenset(vars(torch.empty(0))) | {"_is_param"}
