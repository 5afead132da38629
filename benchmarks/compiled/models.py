"""Models for recordings of compiled steps: `--model benchmarks.compiled.models:decoder`. None of them was looked at
while the prediction was written."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

Made = tuple[nn.Module, tuple[Tensor, ...]]


class DecoderBlock(nn.Module):
    """Pre-norm attention and MLP. That of `workloads/language.py` is another, whose `nn.Sequential` lets go of tensors
    at other moments; both are recorded as they are."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.up, self.down = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        b, s, w = x.shape
        q, k, v = self.qkv(self.norm1(x)).view(b, s, 3, self.heads, w // self.heads).permute(2, 0, 3, 1, 4)
        x = x + self.out(F.scaled_dot_product_attention(q, k, v, is_causal=True).transpose(1, 2).reshape(b, s, w))
        return x + self.down(F.gelu(self.up(self.norm2(x))))


class Decoder(nn.Module):
    """GPT-style, with a tied head and the loss inside."""

    def __init__(self, width: int, layers: int, vocabulary: int, longest: int) -> None:
        super().__init__()
        self.embed, self.place = nn.Embedding(vocabulary, width), nn.Embedding(longest, width)
        self.blocks = nn.ModuleList(DecoderBlock(width, width // 64) for _ in range(layers))
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, vocabulary, bias=False)
        self.head.weight = self.embed.weight

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.embed(tokens) + self.place(torch.arange(tokens.shape[1], device=tokens.device))
        for block in self.blocks:
            x = block(x)
        return F.cross_entropy(self.head(self.norm(x)).flatten(0, 1), tokens.flatten())


def decoder(batch: int = 8, seq: int = 512, width: int = 512, layers: int = 6, vocabulary: int = 32000) -> Made:
    """See `Decoder`."""
    return Decoder(width, layers, vocabulary, seq), (torch.randint(0, vocabulary, (batch, seq)),)


class Residual(nn.Module):
    """Two convolutions with batch norm, and a shortcut."""

    def __init__(self, inside: int, width: int, stride: int) -> None:
        super().__init__()
        self.conv1, self.norm1 = nn.Conv2d(inside, width, 3, stride, 1, bias=False), nn.BatchNorm2d(width)
        self.conv2, self.norm2 = nn.Conv2d(width, width, 3, 1, 1, bias=False), nn.BatchNorm2d(width)
        self.short = nn.Conv2d(inside, width, 1, stride, bias=False) if stride > 1 or inside != width else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu(self.norm1(self.conv1(x)))
        return F.relu(self.norm2(self.conv2(y)) + self.short(x))


class ConvNet(nn.Module):
    """A small residual network."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.norm = nn.Conv2d(3, 64, 7, 2, 3, bias=False), nn.BatchNorm2d(64)
        stages = [(64, 64, 1), (64, 64, 1), (64, 128, 2), (128, 128, 1), (128, 256, 2), (256, 256, 1)]
        self.blocks = nn.Sequential(*(Residual(*stage) for stage in stages))
        self.head = nn.Linear(256, 1000)

    def forward(self, images: Tensor, labels: Tensor) -> Tensor:
        x = F.max_pool2d(F.relu(self.norm(self.stem(images))), 3, 2, 1)
        return F.cross_entropy(self.head(self.blocks(x).mean((2, 3))), labels)


def convnet(batch: int = 32, side: int = 160) -> Made:
    """See `ConvNet`."""
    return ConvNet(), (torch.randn(batch, 3, side, side), torch.randint(0, 1000, (batch,)))


class EncoderBlock(nn.Module):
    """Post-norm attention and MLP with dropout."""

    def __init__(self, width: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.heads = heads
        self.q, self.k, self.v, self.out = (nn.Linear(width, width) for _ in range(4))
        self.up, self.down = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        b, s, w = x.shape
        q, k, v = (part(x).view(b, s, self.heads, -1).transpose(1, 2) for part in (self.q, self.k, self.v))
        mixed = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(b, s, w)
        x = self.norm1(x + self.dropout(self.out(mixed)))
        return self.norm2(x + self.dropout(self.down(self.dropout(F.gelu(self.up(x))))))


class Encoder(nn.Module):
    """BERT-style, with a classifier over the mean."""

    def __init__(self, width: int, layers: int, vocabulary: int, longest: int) -> None:
        super().__init__()
        self.embed, self.place = nn.Embedding(vocabulary, width), nn.Parameter(torch.zeros(longest, width))
        self.norm, self.dropout = nn.LayerNorm(width), nn.Dropout(0.1)
        self.blocks = nn.ModuleList(EncoderBlock(width, width // 64, 0.1) for _ in range(layers))
        self.head = nn.Linear(width, 10)

    def forward(self, tokens: Tensor, labels: Tensor) -> Tensor:
        x = self.dropout(self.norm(self.embed(tokens) + self.place))
        for block in self.blocks:
            x = block(x)
        return F.cross_entropy(self.head(x.mean(1)), labels)


def encoder(batch: int = 16, seq: int = 256, width: int = 512, layers: int = 6, vocabulary: int = 30522) -> Made:
    """See `Encoder`."""
    tokens, labels = torch.randint(0, vocabulary, (batch, seq)), torch.randint(0, 10, (batch,))
    return Encoder(width, layers, vocabulary, seq), (tokens, labels)


class MixerBlock(nn.Module):
    """An MLP over the patches, then one over the channels."""

    def __init__(self, patches: int, width: int) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.over_patches = nn.Sequential(nn.Linear(patches, 2 * patches), nn.GELU(), nn.Linear(2 * patches, patches))
        self.over_channels = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.over_patches(self.norm1(x).transpose(1, 2)).transpose(1, 2)
        return x + self.over_channels(self.norm2(x))


class Mixer(nn.Module):
    """MLP-Mixer over patches that are cut without a convolution; label smoothing."""

    def __init__(self, side: int, patch: int, width: int, layers: int, classes: int) -> None:
        super().__init__()
        self.patch = patch
        patches = (side // patch) ** 2
        self.embed = nn.Linear(3 * patch * patch, width)
        self.blocks = nn.ModuleList(MixerBlock(patches, width) for _ in range(layers))
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, classes)

    def forward(self, images: Tensor, labels: Tensor) -> Tensor:
        b, c, h, w = images.shape
        p = self.patch
        x = images.reshape(b, c, h // p, p, w // p, p).permute(0, 2, 4, 1, 3, 5).reshape(b, -1, c * p * p)
        x = self.embed(x)
        for block in self.blocks:
            x = block(x)
        return F.cross_entropy(self.head(self.norm(x).mean(1)), labels, label_smoothing=0.1)


def mixer(batch: int = 32, side: int = 224, layers: int = 8) -> Made:
    """See `Mixer`."""
    return Mixer(side, 16, 512, layers, 1000), (torch.randn(batch, 3, side, side), torch.randint(0, 1000, (batch,)))
