"""nanoVLM's language tower: a small Llama with grouped keys.

Written to make the ATen calls of huggingface/nanoVLM, models/language_model.py (the same at commits 91a3b93 and
4e0c096), in their order, with their dtypes. Lifetimes count too: a tensor that the original holds in a local until its
function returns is held as long here, and locals that die together are first assigned in the order in which the
original assigns them, for CPython drops them in that order. Parameter names are the original's.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from memgraph.models.nanovlm_config import NanoVLMConfig
from memgraph.models.nanovlm_vision import init_weights, split_heads

Cache = dict[str, Tensor]
"""One block's keys and values."""


class RMSNorm(nn.Module):
    """Scales each position to a root mean square of 1: [B, S, C] → [B, S, C]."""

    def __init__(self, config: NanoVLMConfig) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(config.lm_hidden_dim))
        self.eps = config.lm_rms_eps

    def forward(self, x: Tensor) -> Tensor:
        scale = torch.rsqrt(torch.mean(x**2, dim=-1, keepdim=True) + self.eps)
        return x * scale * self.weight


class Rotary(nn.Module):
    """Cosines and sines of every position's angles: [B, S] → two of [B, S, head]."""

    inv_freq: Tensor

    def __init__(self, config: NanoVLMConfig) -> None:
        super().__init__()
        size = config.lm_hidden_dim // config.lm_n_heads
        self.limit = config.lm_max_position_embeddings
        self.scaling = config.lm_attn_scaling
        self.register_buffer("inv_freq", 1.0 / (config.lm_re_base ** (torch.arange(0, size, 2).float() / size)))

    @torch.no_grad()
    def forward(self, positions: Tensor) -> tuple[Tensor, Tensor]:
        count = positions.max() + 1
        if count > self.limit:  # a branch on a tensor's value: the GPU is asked
            stretch = count / self.limit
            inv_freq = self.inv_freq / stretch
        else:
            inv_freq = self.inv_freq
        flat = positions.reshape(-1).float()
        half = (flat.unsqueeze(-1) * inv_freq.unsqueeze(0)).reshape(*positions.shape, -1)
        angles = torch.cat([half, half], dim=-1)
        cos = torch.cos(angles) * self.scaling
        sin = torch.sin(angles) * self.scaling
        return cos, sin


def rotate(q: Tensor, k: Tensor, cos: Tensor, sin: Tensor) -> tuple[Tensor, Tensor]:
    """Each head of `q` and `k` turned by its position's angle: [B, heads, S, head], angles [B, S, head]."""
    cos, sin = cos.unsqueeze(1), sin.unsqueeze(1)
    return (q * cos) + (_quarter_turn(q) * sin), (k * cos) + (_quarter_turn(k) * sin)


def _quarter_turn(x: Tensor) -> Tensor:
    left, right = x.chunk(2, dim=-1)
    return torch.cat((-right, left), dim=-1)


def additive_mask(attention_mask: Tensor, dtype: torch.dtype) -> Tensor:
    """1 → 0 and 0 → the least number of `dtype`, to be added to scores: [B, S] → [B, 1, 1, S]."""
    return (1.0 - attention_mask.unsqueeze(1).unsqueeze(2).float()) * torch.finfo(dtype).min


def causal_mask(length: int, device: torch.device) -> Tensor:
    """True where a position may look: [1, 1, S, S]."""
    return torch.tril(torch.ones(length, length, device=device, dtype=torch.bool)).view(1, 1, length, length)


class LanguageAttention(nn.Module):
    """Causal attention, several query heads to one key head: [B, S, C] → [B, S, C]."""

    def __init__(self, config: NanoVLMConfig) -> None:
        super().__init__()
        self.n_heads, self.n_kv_heads = config.lm_n_heads, config.lm_n_kv_heads
        width, self.head = config.lm_hidden_dim, config.lm_hidden_dim // config.lm_n_heads
        self.dropout = config.lm_dropout
        self.fused = (config.lm_attention or config.attention) == "sdpa"
        self.q_proj = nn.Linear(width, width, bias=False)
        self.k_proj = nn.Linear(width, self.head * self.n_kv_heads, bias=False)
        self.v_proj = nn.Linear(width, self.head * self.n_kv_heads, bias=False)
        self.out_proj = nn.Linear(width, width, bias=False)
        self.attn_dropout = nn.Dropout(config.lm_dropout)
        self.resid_dropout = nn.Dropout(config.lm_dropout)

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor, attention_mask: Tensor | None) -> tuple[Tensor, Cache]:
        """`attention_mask` is [B, S], 1 to attend and 0 for padding. Long, because every local here is a lifetime."""
        plain_q = split_heads(self.q_proj(x), self.n_heads)
        plain_k, v = split_heads(self.k_proj(x), self.n_kv_heads), split_heads(self.v_proj(x), self.n_kv_heads)
        q, k = rotate(plain_q, plain_k, cos, sin)
        groups = self.n_heads // self.n_kv_heads
        every_k, every_v = k.repeat_interleave(groups, dim=1), v.repeat_interleave(groups, dim=1)
        mask = None if attention_mask is None else additive_mask(attention_mask[:, : x.size(1)], q.dtype)
        if self.fused:
            dropout, causal = self.dropout if self.training else 0.0, x.size(1) > 1
            y = F.scaled_dot_product_attention(q, every_k, every_v, attn_mask=mask, dropout_p=dropout, is_causal=causal)
        else:
            weights = torch.matmul(q, every_k.transpose(2, 3)) / math.sqrt(self.head)
            if x.size(1) > 1:
                past = causal_mask(x.size(1), x.device)
                weights = weights.masked_fill(~past, float("-inf"))
            weights = weights if mask is None else weights + mask
            weights = F.softmax(weights, dim=-1)
            weights = self.attn_dropout(weights)
            y = weights @ every_v
        y = y.transpose(1, 2).contiguous().view(x.size())
        y = self.out_proj(y)
        y = self.resid_dropout(y)
        return y, {"key": k, "value": v}


class LanguageMLP(nn.Module):
    """A gated pair of linear layers and one back: [B, S, C] → [B, S, C]."""

    def __init__(self, config: NanoVLMConfig) -> None:
        super().__init__()
        self.gate_proj = nn.Linear(config.lm_hidden_dim, config.lm_inter_dim, bias=False)
        self.up_proj = nn.Linear(config.lm_hidden_dim, config.lm_inter_dim, bias=False)
        self.down_proj = nn.Linear(config.lm_inter_dim, config.lm_hidden_dim, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        gate = F.silu(self.gate_proj(x))
        x = self.up_proj(x)
        x = self.down_proj(gate * x)
        return x


class LanguageBlock(nn.Module):
    """One transformer block, normalised before each half."""

    def __init__(self, config: NanoVLMConfig) -> None:
        super().__init__()
        self.mlp = LanguageMLP(config)
        self.attn = LanguageAttention(config)
        self.norm1 = RMSNorm(config)
        self.norm2 = RMSNorm(config)

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor, attention_mask: Tensor | None) -> tuple[Tensor, Cache]:
        residual = x
        x, cache = self.attn(self.norm1(x), cos, sin, attention_mask)
        x = residual + x
        residual = x
        x = self.mlp(self.norm2(x))
        return residual + x, cache


class LanguageTower(nn.Module):
    """Embeddings to hidden states: [B, S, C] → [B, S, C]. The model calls `head`, which makes logits of them."""

    def __init__(self, config: NanoVLMConfig) -> None:
        super().__init__()
        self.token_embedding = nn.Embedding(config.lm_vocab_size, config.lm_hidden_dim)
        self.rotary_embd = Rotary(config)
        self.blocks = nn.ModuleList(LanguageBlock(config) for _ in range(config.lm_n_blocks))
        self.norm = RMSNorm(config)
        self.head = nn.Linear(config.lm_hidden_dim, config.lm_vocab_size, bias=False)
        if config.lm_tie_weights:
            self.head.weight = self.token_embedding.weight
        self.apply(init_weights)

    def forward(self, x: Tensor, attention_mask: Tensor | None) -> tuple[Tensor, list[Cache]]:
        """Hidden states, and every block's keys and values: made in training too, alive while the caller has them."""
        caches: list[Cache] = []
        positions = torch.arange(0, x.size(1), device=x.device).unsqueeze(0).expand(x.size(0), -1)
        cos, sin = self.rotary_embd(positions)
        for block in self.blocks:
            x, cache = block(x, cos, sin, attention_mask)
            caches.append(cache)
        return self.norm(x), caches
