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


def test_an_encoder_takes_a_padding_mask_and_says_that_padding_is_carried_along() -> None:
    with memgraph.virtual_gpu("h200") as gpu:
        layer = torch.nn.TransformerEncoderLayer(64, 4, 128, batch_first=True)
        encoder = torch.nn.TransformerEncoder(layer, 2).cuda().eval()
        padding = torch.zeros(4, 32, dtype=torch.bool, device="cuda")
        padding[:, 20:] = True
        with torch.no_grad():
            out = encoder(torch.randn(4, 32, 64, device="cuda"), src_key_padding_mask=padding)
    assert out.shape == (4, 32, 64)
    assert [text for text in gpu.trace.assumptions if "nested tensor" in text]


def test_a_boolean_mask_becomes_one_of_numbers_between_two_scalars() -> None:
    """Recorded on an H200: minus infinity and 0 in 4 bytes each, then 64 · 64 floats."""
    with memgraph.virtual_gpu("h200") as gpu:
        query = torch.zeros(2, 3, 64, 64, device="cuda")
        mask = torch.ones(64, 64, dtype=torch.bool, device="cuda").tril()
        F.scaled_dot_product_attention(query, query, query, attn_mask=mask)
    assert [buffer.size for buffer in gpu.trace.buffers[3:6]] == [4, 4, 64 * 64 * 4]
