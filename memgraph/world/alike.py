"""The mail of a rank that is traced alone: each other rank says what this one says."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from memgraph.world.mail import Mail


class Alike(Mail):
    """Stages of a pipeline whose shapes were given agree on nothing but that: each votes 1, and is told 1 (torch 2.13,
    `PipelineStage._warmup_forward_vote`, `_warmup_backward_result`)."""

    def __init__(self) -> None:
        super().__init__(0, Path(), None, compared=True)

    def send(self, peer: int, content: Any) -> None:
        """To nobody."""

    def take(self, peer: int) -> Any:
        """The vote, as the array that a message brings."""
        return torch.ones(1, dtype=torch.int32).numpy()

    def tell(self, topic: str, content: bytes) -> None:
        """To nobody."""

    def told(self, peer: int, topic: str) -> None:
        """Nobody tells anything."""
