"""The model that `peers.py` and `peers_compiled.py` compare planners on, and how their tables write a plan."""

from __future__ import annotations

from typing import Any

GIB = 2**30
BATCH, SEQ, _WIDTH, BLOCKS, _VOCABULARY = 8, 1024, 768, 10, 8192
PREPARE: list[Any] = []
"""What is done to the model that is made next."""


def make(batch: int = BATCH) -> tuple[Any, list[Any]]:
    """The model and a batch, as `--model` takes them."""
    import torch

    tokens = torch.zeros(batch, SEQ, dtype=torch.long)
    model = decoder()
    for prepare in PREPARE:
        prepare(model)
    return model, [tokens, tokens.clone()]


def decoder() -> Any:
    """Pre-norm blocks, with attention by hand: torch's estimators know no kernel with results of two types."""
    import torch
    from torch import nn
    from torch.nn import functional as F

    class Block(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.norm1, self.norm2 = nn.LayerNorm(_WIDTH), nn.LayerNorm(_WIDTH)
            self.qkv, self.out = nn.Linear(_WIDTH, 3 * _WIDTH), nn.Linear(_WIDTH, _WIDTH)
            self.up, self.down = nn.Linear(_WIDTH, 4 * _WIDTH), nn.Linear(4 * _WIDTH, _WIDTH)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            q, k, v = self.qkv(self.norm1(x)).unflatten(-1, (3, 12, _WIDTH // 12)).permute(2, 0, 3, 1, 4)
            y = (q @ k.transpose(-1, -2) / (_WIDTH // 12) ** 0.5).softmax(-1) @ v
            x = x + self.out(y.transpose(1, 2).flatten(2))
            return x + self.down(F.gelu(self.up(self.norm2(x))))

    class Decoder(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embed = nn.Embedding(_VOCABULARY, _WIDTH)
            self.blocks = nn.ModuleList(Block() for _ in range(BLOCKS))
            self.norm, self.head = nn.LayerNorm(_WIDTH), nn.Linear(_WIDTH, _VOCABULARY, bias=False)

        def forward(self, tokens: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
            x = self.embed(tokens)
            for block in self.blocks:
                x = block(x)
            return F.cross_entropy(self.head(self.norm(x)).flatten(0, 1), targets.flatten())

    return Decoder()


def options() -> Any:
    from memgraph.options import Options

    return Options(
        model="benchmarks.checkpoint.peers_model:make", batch=BATCH, gpu="h100", dtype="bfloat16", amp="none"
    )


def told(found: dict[str, Any] | None) -> str:
    """A peak and a recompute."""
    return "none" if found is None else f"{found['peak'] / GIB:.3f} +{100 * found['recompute']:.2f} %"
