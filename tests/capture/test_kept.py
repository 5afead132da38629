"""What is kept for the tokens to come is a KV cache: told from its use, or from the library that makes it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import memgraph
from memgraph.trace import Category, Trace

BATCH, HEADS, WIDTH, PROMPT, TOKENS = 2, 4, 64, 16, 5


def manual(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return (q @ k.transpose(-1, -2)).softmax(-1) @ v


def fused(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return F.scaled_dot_product_attention(q, k, v)


class Layer(nn.Module):
    """Attention with a cache: one that grows by appending, or one that is there from the start and is written to."""

    def __init__(self, attend: Callable[[Tensor, Tensor, Tensor], Tensor], room: int = 0) -> None:
        super().__init__()
        self.qkv = nn.Linear(HEADS * WIDTH, 3 * HEADS * WIDTH)
        self.attend, self.filled = attend, 0
        shape = (BATCH, HEADS, room, WIDTH)
        self.cache = [torch.zeros(shape, device="cuda") for _ in range(2)] if room else []

    def forward(self, x: Tensor) -> Tensor:
        q, *new = (part.unflatten(-1, (HEADS, WIDTH)).transpose(1, 2) for part in self.qkv(x).chunk(3, -1))
        start, self.filled = self.filled, self.filled + x.shape[1]
        if not self.cache:
            self.cache = new
        elif start < self.cache[0].shape[2]:
            for kept, part in zip(self.cache, new, strict=True):
                kept[:, :, start : self.filled] = part
        else:
            self.cache = [torch.cat([kept, part], 2) for kept, part in zip(self.cache, new, strict=True)]
        k, v = (kept[:, :, : self.filled] for kept in self.cache)
        return self.attend(q, k, v).transpose(1, 2).flatten(2)


def decoded(attend: Callable[[Tensor, Tensor, Tensor], Tensor], room: int) -> Trace:
    """A prompt of 16 tokens and five more."""
    with memgraph.virtual_gpu("h200") as gpu, torch.no_grad():
        layer = Layer(attend, room).cuda()
        x = torch.randn(BATCH, PROMPT, HEADS * WIDTH, device="cuda")
        for _ in range(1 + TOKENS):
            x = layer(x)[:, -1:]
    return gpu.trace


def cached(trace: Trace) -> Counter[tuple[int, ...]]:
    return Counter(buffer.shape for buffer in trace.buffers if buffer.category is Category.CACHE)


@pytest.mark.parametrize("attend", [manual, fused])
def test_a_cache_that_grows_by_appending(attend: Callable[[Tensor, Tensor, Tensor], Tensor]) -> None:
    """A key and a value for each token after the prompt, each a copy of all before it with one more."""
    trace = decoded(attend, 0)
    expected = {(BATCH, HEADS, PROMPT + 1 + token, WIDTH): 2 for token in range(TOKENS)}
    assert cached(trace) == expected


@pytest.mark.parametrize("attend", [manual, fused])
def test_a_cache_that_is_written_to(attend: Callable[[Tensor, Tensor, Tensor], Tensor]) -> None:
    trace = decoded(attend, 32)
    assert cached(trace) == {(BATCH, HEADS, 32, WIDTH): 2}


def test_what_grows_and_is_no_cache() -> None:
    """Tokens, which nothing attends to, and results that an evaluation keeps."""
    with memgraph.virtual_gpu("h200") as gpu, torch.no_grad():
        model = nn.Linear(8, 8).cuda()
        tokens, kept = torch.zeros(2, 3, dtype=torch.long, device="cuda"), torch.zeros(1, 8, device="cuda")
        for _ in range(4):
            kept = torch.cat([kept, model(kept[-1:])])
            tokens = torch.cat([tokens, tokens[:, -1:]], 1)
    assert not cached(gpu.trace)


def test_training_has_none() -> None:
    with memgraph.virtual_gpu("h200") as gpu:
        layer = nn.TransformerEncoderLayer(32, 4, 64).cuda()
        for _ in range(2):
            layer(torch.randn(5, 2, 32, device="cuda")).sum().backward()
    assert not cached(gpu.trace)


def test_those_of_transformers() -> None:
    """One layer, 2 heads of 32, a prompt of 16: copies of 16, 17, 18 and 19 tokens, keys and values."""
    transformers = pytest.importorskip("transformers")
    config = transformers.LlamaConfig(
        vocab_size=100, hidden_size=64, intermediate_size=128, num_hidden_layers=1, num_attention_heads=2
    )
    with memgraph.virtual_gpu("h200") as gpu:
        model = transformers.LlamaForCausalLM(config).cuda().eval()
        ids = torch.randint(5, 90, (2, 16), device="cuda")
        assert model.generate(ids, max_new_tokens=4, do_sample=False, pad_token_id=0, eos_token_id=3).shape == (2, 20)
    floats = {shape: count for shape, count in cached(gpu.trace).items() if len(shape) == 4}
    assert floats == {(2, 2, 16 + token, 32): 2 for token in range(4)}
