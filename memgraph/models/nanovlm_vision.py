"""nanoVLM's vision tower: a SigLIP ViT.

Written to make the ATen calls of huggingface/nanoVLM, models/vision_transformer.py (the same at commits 91a3b93 and
4e0c096), in their order, with their dtypes and lifetimes. Parameter names are the original's.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from memgraph.models.nanovlm_config import NanoVLMConfig


def init_weights(module: nn.Module) -> None:
    """nanoVLM's initialisation, for `Module.apply`: normal with a deviation of 0.02; biases 0, scales 1."""
    if isinstance(module, nn.Linear | nn.Conv2d | nn.Embedding):
        nn.init.normal_(module.weight, mean=0.0, std=0.02)
    elif isinstance(module, nn.LayerNorm):
        nn.init.ones_(module.weight)
    bias = getattr(module, "bias", None)
    if isinstance(bias, Tensor):
        nn.init.zeros_(bias)


def split_heads(x: Tensor, heads: int) -> Tensor:
    """[N, T, C] → [N, heads, T, C / heads]"""
    n, length, width = x.size()
    return x.view(n, length, heads, width // heads).transpose(1, 2)


class PatchEmbedding(nn.Module):
    """Cuts an image into patches: [N, 3, P, P] → [N, patches, hidden]."""

    def __init__(self, config: NanoVLMConfig) -> None:
        super().__init__()
        size = config.vit_patch_size
        self.conv = nn.Conv2d(3, config.vit_hidden_dim, kernel_size=size, stride=size, padding="valid")
        self.position_embedding = nn.Parameter(torch.rand(1, config.vit_patches_a_side**2, config.vit_hidden_dim))

    def forward(self, images: Tensor) -> Tensor:
        patches: Tensor = self.conv(images)
        return patches.flatten(2).transpose(1, 2) + self.position_embedding


class VisionAttention(nn.Module):
    """Attention of every patch to every patch: [N, T, C] → [N, T, C]."""

    def __init__(self, config: NanoVLMConfig) -> None:
        super().__init__()
        self.n_heads = config.vit_n_heads
        self.dropout = config.vit_dropout
        self.fused = (config.vit_attention or config.attention) == "sdpa"
        self.qkv_proj = nn.Linear(config.vit_hidden_dim, 3 * config.vit_hidden_dim)
        self.out_proj = nn.Linear(config.vit_hidden_dim, config.vit_hidden_dim)
        self.attn_dropout = nn.Dropout(config.vit_dropout)
        self.resid_dropout = nn.Dropout(config.vit_dropout)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor
        n, length, width = x.size()
        q, k, v = (split_heads(part, self.n_heads) for part in self.qkv_proj(x).split(width, dim=2))
        if self.fused:
            y = F.scaled_dot_product_attention(q, k, v, dropout_p=self.dropout if self.training else 0.0)
        else:  # the weights live until this returns, as in the original
            weights = (q @ k.transpose(-2, -1)) * (1.0 / math.sqrt(k.size(-1)))
            weights = F.softmax(weights, dim=-1)
            weights = self.attn_dropout(weights)
            y = weights @ v
        y = y.transpose(1, 2).contiguous().view(n, length, width)
        y = self.out_proj(y)
        y = self.resid_dropout(y)
        return y


class VisionMLP(nn.Module):
    """Two linear layers around a GELU: [N, T, C] → [N, T, C]."""

    def __init__(self, config: NanoVLMConfig) -> None:
        super().__init__()
        self.activation_fn = nn.GELU(approximate="tanh")
        self.fc1 = nn.Linear(config.vit_hidden_dim, config.vit_inter_dim)
        self.fc2 = nn.Linear(config.vit_inter_dim, config.vit_hidden_dim)
        self.dropout = nn.Dropout(config.vit_dropout)

    def forward(self, x: Tensor) -> Tensor:
        x = self.fc1(x)
        x = self.activation_fn(x)
        x = self.fc2(x)
        x = self.dropout(x)
        return x


class VisionBlock(nn.Module):
    """One transformer block, normalised before each half."""

    def __init__(self, config: NanoVLMConfig) -> None:
        super().__init__()
        self.ln1 = nn.LayerNorm(config.vit_hidden_dim, eps=config.vit_ln_eps)
        self.attn = VisionAttention(config)
        self.ln2 = nn.LayerNorm(config.vit_hidden_dim, eps=config.vit_ln_eps)
        self.mlp = VisionMLP(config)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attn(self.ln1(x))
        x = x + self.mlp(self.ln2(x))
        return x


class VisionTower(nn.Module):
    """Images to one embedding a patch: [N, 3, P, P] → [N, patches, hidden]."""

    def __init__(self, config: NanoVLMConfig) -> None:
        super().__init__()
        self.patch_embedding = PatchEmbedding(config)
        self.dropout = nn.Dropout(config.vit_dropout)
        self.blocks = nn.ModuleList(VisionBlock(config) for _ in range(config.vit_n_blocks))
        self.layer_norm = nn.LayerNorm(config.vit_hidden_dim, eps=config.vit_ln_eps)
        self.apply(init_weights)

    def forward(self, images: Tensor) -> Tensor:
        x: Tensor = self.patch_embedding(images)
        x = self.dropout(x)
        for block in self.blocks:
            x = block(x)
        x = self.layer_norm(x)
        return x
