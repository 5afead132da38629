"""What a storage is to the step: a parameter, a gradient, optimizer state, something that collectives read or write."""

from __future__ import annotations

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor

from memgraph.capture.ledger import Ledger
from memgraph.capture.members import members, parts
from memgraph.capture.provenance import ModulePaths
from memgraph.capture.storages import Storages
from memgraph.capture.tags import name_parameter
from memgraph.trace import Category


class Marks:
    """See the module's text.

    Args:
        ledger: told of categories and names.
        storages: knows a tensor's buffer.
        paths: knows what a model is called.
    """

    def __init__(self, ledger: Ledger, storages: Storages, paths: ModulePaths) -> None:
        self._ledger, self._storages, self._paths = ledger, storages, paths
        self.sent: set[int] = set()
        """Buffers that collectives read or wrote."""

    def mark(self, tensor: Tensor, category: Category, name: str) -> None:
        """This tensor's buffer is a parameter, a gradient, optimizer state, …; or those of a tensor that holds others,
        as a DTensor does."""
        for part in (tensor,) if isinstance(tensor, FakeTensor) else parts(tensor):
            buffer = self._storages.buffer_of(part)
            if buffer is not None:
                self._ledger.categories[buffer] = category
                if name:
                    self._ledger.names[buffer] = name

    def model(self, root: torch.nn.Module) -> None:
        """Its parameters and buffers, by their names."""
        for category, name, tensor in members(root, self._paths.name(root)):
            self.mark(tensor, category, name_parameter(tensor, name))

    def communicated(self, tensor: Tensor) -> None:
        """A collective reads or writes this tensor."""
        buffer = self._storages.buffer_of(tensor)
        if buffer is not None:
            self.sent.add(buffer)
