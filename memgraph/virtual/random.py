"""Generators of random numbers on the virtual GPU: objects that scripts make and pass on, and nothing is drawn from."""

from __future__ import annotations

from typing import Any

import torch


class VirtualGenerator(torch.Generator):
    """As `torch.Generator`. One for the device is a CPU one that says otherwise: a build without CUDA has no other."""

    def __new__(cls, device: Any = "cpu") -> VirtualGenerator:
        made: VirtualGenerator = super().__new__(cls, "cpu")  # type: ignore[call-arg]
        made._memgraph_device = torch.device(device)
        return made

    _memgraph_device: torch.device

    @property
    def device(self) -> torch.device:  # type: ignore[override]
        return self._memgraph_device
