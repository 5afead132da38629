"""Ops that are called with functions, where they are not compiled: they run what an eager run makes of them."""

from __future__ import annotations

import torch
from torch.nn.attention.flex_attention import create_block_mask, flex_attention

import memgraph

HEADS, LENGTH, WIDTH = 4, 256, 64
SCORES = HEADS * LENGTH * LENGTH * 4
"""Bytes of all scores in float32."""


def inputs(grad: bool = False) -> tuple[torch.Tensor, ...]:
    return tuple(
        torch.randn(1, HEADS, LENGTH, WIDTH, device="cuda", dtype=torch.bfloat16, requires_grad=grad) for _ in range(3)
    )


def test_flex_attention_holds_all_scores() -> None:
    """torch/_higher_order_ops/flex_attention.py, `math_attention`: at its peak the softmax of the modified scores is
    made, beside those, a mask of which rows are hidden and what the softmax takes; 2.5 to 4 times the scores."""
    with memgraph.virtual_gpu("h200") as gpu:
        flex_attention(*inputs())
    scores = [size for size in gpu.ledger.sizes if size == SCORES]
    assert len(scores) >= 4  # product, scaled, modified, softmax
    assert 2.5 * SCORES < gpu.trace.peak.requested - 32 * 2**20 < 4 * SCORES  # cuBLAS has 32 MiB
    assert gpu.trace.unknown_ops == ()


def test_flex_attention_with_a_mask_and_a_changed_score_has_a_backward() -> None:
    with memgraph.virtual_gpu("h200") as gpu:
        mask = create_block_mask(lambda b, h, i, j: i >= j, None, None, LENGTH, LENGTH, device="cuda")
        query, key, value = inputs(grad=True)
        out = flex_attention(query, key, value, score_mod=lambda score, b, h, i, j: score + (i - j), block_mask=mask)
        assert (out.shape, out.dtype) == (query.shape, torch.bfloat16)
        before = len(gpu.ledger.sizes)
        out.sum().backward()
        assert query.grad is not None and query.grad.stride() == query.stride()
    assert sum(size == SCORES for size in gpu.ledger.sizes[before:]) >= 6  # scores again, their softmax, gradients


def test_cond_runs_one_of_its_branches() -> None:
    with memgraph.virtual_gpu("h200") as gpu:
        x = torch.randn(1000, device="cuda")
        before = len(gpu.ledger.sizes)
        result = torch.cond(torch.tensor(True).cuda(), lambda x: torch.cat([x, x])[:1000], lambda x: x + 1, (x,))
        assert result.shape == (1000,)
    assert 8000 in gpu.ledger.sizes[before:]


def test_while_loop_asks_and_goes_on() -> None:
    """Two steps from 0 to 2, each with a tensor of its own."""
    with memgraph.virtual_gpu("h200"):
        count, x = torch.tensor(0).cuda(), torch.randn(1000, device="cuda")
        steps, result = torch._higher_order_ops.while_loop(
            lambda i, x: i < 2, lambda i, x: (i + 1, torch.cat([x[:500], x[500:]])), (count, x)
        )
        assert int(steps) == 2 and result.shape == (1000,)


def test_scan_and_map_run_step_by_step() -> None:
    with memgraph.virtual_gpu("h200") as gpu:
        xs = torch.randn(5, 100, device="cuda")
        last, sums = torch._higher_order_ops.scan(lambda a, x: (a + x, a + x), torch.zeros(100, device="cuda"), xs)
        assert (last.shape, sums.shape) == ((100,), (5, 100))
        assert torch._higher_order_ops.map(lambda x: torch.cat([x, x]), xs).shape == (5, 200)
    assert gpu.ledger.sizes.count(800) >= 5 and 4000 in gpu.ledger.sizes  # each row, then all of them
