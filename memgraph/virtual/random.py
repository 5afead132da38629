"""Generators of random numbers on the virtual GPU: objects that scripts make and pass on, and nothing is drawn from."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch._subclasses.fake_tensor import FakeTensor


class _AnyGenerator(type(torch._C.Generator)):  # type: ignore[misc]  # its metaclass differs between versions
    """Asked for `torch.Generator` while it is replaced, every generator is one."""

    def __instancecheck__(cls, instance: object) -> bool:
        return isinstance(instance, torch._C.Generator)


class VirtualGenerator(torch._C.Generator, metaclass=_AnyGenerator):
    """As `torch.Generator`. One for the device is a CPU one that says otherwise: a build without CUDA has no other.
    Compiled code keeps and restores the device's state around what it computes again."""

    def __new__(cls, device: Any = "cpu") -> VirtualGenerator:
        made: VirtualGenerator = super().__new__(cls, "cpu")  # type: ignore[call-arg]
        made._memgraph_device = torch.device(device)
        return made

    _memgraph_device: torch.device

    @property
    def device(self) -> torch.device:  # type: ignore[override]
        return self._memgraph_device

    def set_state(self, new_state: torch.Tensor) -> torch._C.Generator:
        """A state that was loaded onto the device, as `torch.load(map_location="cuda")` does, has no values."""
        return self if isinstance(new_state, FakeTensor) else super().set_state(new_state)

    def clone_state(self) -> VirtualGenerator:
        return VirtualGenerator(self.device)

    def graphsafe_get_state(self) -> VirtualGenerator:
        return self

    def graphsafe_set_state(self, _state: Any) -> VirtualGenerator:  # type: ignore[override]
        return self


def set_if_known(original: Callable[[torch.Tensor], None]) -> Callable[[torch.Tensor], None]:
    """`torch.set_rng_state`, which leaves the host's generator as it is where the state has no values."""
    return lambda new_state: None if isinstance(new_state, FakeTensor) else original(new_state)
