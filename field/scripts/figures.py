"""What a script knows of its own bytes by arithmetic, for `field.run` to hold against the prediction."""

from __future__ import annotations

import json
from collections.abc import Iterable

import torch


def size(tensors: Iterable[torch.Tensor]) -> int:
    """Bytes of these tensors, each counted once."""
    return sum(tensor.numel() * tensor.element_size() for tensor in {id(tensor): tensor for tensor in tensors}.values())


def states(optimizer: torch.optim.Optimizer) -> int:
    """Bytes that an optimizer keeps on the card."""
    kept = [value for state in optimizer.state.values() for value in state.values()]
    return size(value for value in kept if isinstance(value, torch.Tensor) and value.is_cuda)


def told(**by_category: int) -> None:
    """Say what each category must have at the peak: `parameters=…`, `optimizer_state=…`, in bytes."""
    print("figures:", json.dumps({name.replace("_", " "): figure for name, figure in by_category.items()}))
