"""A model's parameters and buffers are those of torch's own walks, in the same order."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from torch import Tensor, nn

from memgraph.capture.members import members
from memgraph.trace import Category


class Tied(nn.Module):
    """A weight that two modules have, a module that stands in two places, a buffer of the root, one that is not set."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(5, 3)
        self.head = nn.Linear(3, 5, bias=False)
        self.head.weight = self.embed.weight
        self.norm = nn.BatchNorm1d(3)
        self.again = self.norm
        self.blocks = nn.ModuleList(nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2, bias=False)) for _ in range(2))
        self.register_buffer("mask", torch.zeros(2))
        self.register_buffer("later", None)
        self.register_parameter("none", None)


class Renamed(nn.Module):
    """Has names of its own, as libraries' wrappers do."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Linear(2, 2)

    def named_parameters(self, *args: object, **kwargs: object) -> Iterator[tuple[str, nn.Parameter]]:  # type: ignore[override]
        yield from ((f"shown.{name}", tensor) for name, tensor in self.inner.named_parameters())


@pytest.mark.parametrize("make", [Tied, Renamed, lambda: nn.Linear(2, 2), lambda: nn.LSTM(2, 3, num_layers=2)])
def test_as_torch_has_them(make: type[nn.Module]) -> None:
    model = make()
    found = [(category, name, id(tensor)) for category, name, tensor in members(model, list(model.named_modules()))]
    walks: list[tuple[Category, Iterator[tuple[str, Tensor]]]] = [
        (Category.PARAMETER, model.named_parameters()),
        (Category.BUFFER, model.named_buffers()),
    ]
    assert found == [(category, name, id(tensor)) for category, walk in walks for name, tensor in walk]
