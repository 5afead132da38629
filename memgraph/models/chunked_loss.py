"""The cross entropy of logits that are never there as a whole: made, used and dropped a chunk of rows at a time.

The logits and what the loss makes of them take rows x vocabulary x 12 to 14 bytes at once: with a vocabulary of 50,000
that is most of a small model's peak. In chunks it is a chunk's share of that, for one more product with the head.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint


def chunked_cross_entropy(
    head: Callable[[Tensor], Tensor], hidden: Tensor, targets: Tensor, chunks: int = 8, *, ignore_index: int = -100,
    loss: Callable[..., Tensor] = F.cross_entropy,
) -> Tensor:  # fmt: skip
    """`F.cross_entropy(head(hidden), targets)`, a chunk of rows at a time; each is computed again in the backward.

    Args:
        head: makes a row of logits of a row of `hidden`, whatever the other rows are.
        hidden: [rows, C].
        targets: [rows], class indices.
        chunks: into how many.
        ignore_index: rows with this target do not count.
        loss: of a chunk, called as `F.cross_entropy` is.
    """

    def part(rows: Tensor, wanted: Tensor) -> Tensor:
        return loss(head(rows), wanted, ignore_index=ignore_index, reduction="sum")

    size = max(1, -(-hidden.size(0) // chunks))
    pieces = zip(hidden.split(size), targets.split(size), strict=True)
    losses = [checkpoint(part, rows, wanted, use_reentrant=False) for rows, wanted in pieces]
    total: Tensor = torch.stack(losses).sum()
    return total / (targets != ignore_index).sum()
