"""Small models for the tests of plans: seven blocks, two towers, no blocks at all."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class Block(nn.Module):
    """Attention-free, with what makes plans hard: a residual, dropout, a tensor shared by all blocks, extra outputs."""

    def __init__(self, width: int, wide: int, dropout: float = 0.1) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.up = nn.Linear(width, wide)
        self.down = nn.Linear(wide, width)
        self.drop = nn.Dropout(dropout)

    def forward(self, x: Tensor, scale: Tensor) -> tuple[Tensor, Tensor]:
        y = self.drop(self.down(F.gelu(self.up(self.norm(x * scale)))))
        return x + y, y


class Seven(nn.Module):
    """Seven blocks of different widths, so that no two plans need the same."""

    def __init__(self, width: int = 64, vocabulary: int = 200) -> None:
        super().__init__()
        self.embed = nn.Embedding(vocabulary, width)
        self.blocks = nn.ModuleList(Block(width, 64 * (3 + place % 4)) for place in range(7))
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, vocabulary, bias=False)
        self.head.weight = self.embed.weight

    def forward(self, tokens: Tensor, targets: Tensor) -> Tensor:
        x = self.embed(tokens)
        scale = torch.rsqrt(x.detach().square().mean(-1, keepdim=True) + 1)
        for block in self.blocks:
            x, _ = block(x, scale)
        return F.cross_entropy(self.head(self.norm(x)).flatten(0, 1), targets.flatten())


def seven(batch: int = 8) -> tuple[nn.Module, dict[str, Tensor]]:
    """The model and a batch: 64 tokens a sample."""
    tokens = torch.zeros(batch, 64, dtype=torch.long)
    return Seven(), {"tokens": tokens, "targets": tokens.clone()}


class Towers(nn.Module):
    """Two stacks that meet."""

    def __init__(self) -> None:
        super().__init__()
        self.left = nn.ModuleList(Block(32, 128) for _ in range(3))
        self.right = nn.ModuleList(Block(64, 256) for _ in range(4))
        self.join = nn.Linear(32, 64)

    def forward(self, one: Tensor, other: Tensor) -> Tensor:
        for block in self.left:
            one, _ = block(one, torch.ones_like(one))
        for block in self.right:
            other, _ = block(other, torch.ones_like(other))
        return (self.join(one) + other).square().mean()


def towers(batch: int = 8) -> tuple[nn.Module, list[Tensor]]:
    """The model and a batch."""
    return Towers(), [torch.zeros(batch, 128, 32), torch.zeros(batch, 128, 64)]


class Plain(nn.Module):
    """Convolutions in a row, and no block among them."""

    def __init__(self) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for place in range(12):
            layers += [nn.Conv2d(3 if place == 0 else 16, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU()]
        self.features = nn.Sequential(*layers)
        self.classify = nn.Linear(16, 10)

    def forward(self, images: Tensor) -> Tensor:
        return self.classify(self.features(images).mean((2, 3))).logsumexp(-1).mean()


def plain(batch: int = 8) -> tuple[nn.Module, Tensor]:
    """The model and a batch."""
    return Plain(), torch.zeros(batch, 3, 32, 32)


class Lean(nn.Module):
    """Seven blocks of few ops and different widths: 128 traces of it are soon made."""

    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(Step(64 * (3 + place % 4)) for place in range(7))

    def forward(self, x: Tensor, scale: Tensor) -> Tensor:
        for block in self.blocks:
            x = block(x, scale)
        return x.square().mean()


class Step(nn.Module):
    """A residual and a tensor shared by all blocks."""

    def __init__(self, wide: int) -> None:
        super().__init__()
        self.up = nn.Parameter(torch.zeros(64, wide))
        self.down = nn.Parameter(torch.zeros(wide, 64))

    def forward(self, x: Tensor, scale: Tensor) -> Tensor:
        return x + F.gelu((x * scale) @ self.up) @ self.down


def lean(batch: int = 8) -> tuple[nn.Module, list[Tensor]]:
    """The model and a batch."""
    return Lean(), [torch.zeros(batch * 64, 64), torch.zeros(batch * 64, 1)]
