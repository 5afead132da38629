"""cuDNN's attention where no backward will follow: it keeps no statistics of the softmax."""

from __future__ import annotations

import torch
from torch.nn import functional as F

import memgraph

SHAPE = (2, 3, 64, 64)
RESULT = 2 * 3 * 64 * 64 * 2
STATISTICS = 2 * 3 * 64 * 4
SEED, OFFSET, WORKSPACE = 8, 8, 256


def requests(trained: bool) -> list[int]:
    """What one call asks for on an H200, in order."""
    with memgraph.virtual_gpu("h200") as gpu:
        query = torch.zeros(SHAPE, dtype=torch.bfloat16, device="cuda").requires_grad_(trained)
        F.scaled_dot_product_attention(query, query, query)
    return [buffer.size for buffer in gpu.trace.buffers[1:]]


def test_statistics_are_kept_for_the_backward_only() -> None:
    assert requests(trained=True) == [SEED, OFFSET, RESULT, STATISTICS, WORKSPACE]
    assert requests(trained=False) == [SEED, OFFSET, RESULT, WORKSPACE]


def test_no_grad_keeps_none() -> None:
    with torch.no_grad():
        assert requests(trained=True) == [SEED, OFFSET, RESULT, WORKSPACE]
