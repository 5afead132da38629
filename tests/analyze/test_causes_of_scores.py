"""Attention that a program writes out, told where torch's own could take its place, and only there."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import memgraph
from memgraph.analyze.causes import causes
from memgraph.analyze.finding import Finding

LAYERS, HEADS, WIDTH, LENGTH, BATCH = 4, 8, 64, 512, 8
SCORES = BATCH * HEADS * LENGTH**2 * 4

Mixed = Callable[[nn.Module, Tensor, Tensor, Tensor], Tensor]


def plain(_layer: nn.Module, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    scores = (q @ k.transpose(-2, -1)) / WIDTH**0.5
    return scores.softmax(dim=-1) @ v


def masked(layer: nn.Module, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    scores = torch.einsum("bhid,bhjd->bhij", q, k) * WIDTH**-0.5
    scores = scores.masked_fill(torch.ones(LENGTH, LENGTH, device="cuda").triu(1) == 1, float("-inf"))
    return F.dropout(F.softmax(scores, dim=-1), 0.1, training=layer.training) @ v


def kept(layer: nn.Module, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    weights = (q @ k.mT).softmax(-1)
    layer.entropy = (weights * weights.log()).sum()
    return weights @ v


def capped(_layer: nn.Module, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return (torch.tanh(q @ k.mT / 30) * 30).softmax(-1) @ v


def mixed_heads(layer: nn.Module, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    weights = (q @ k.mT).softmax(-1)
    return torch.einsum("bhij,hg->bgij", weights, layer.mix) @ v


def linear(_layer: nn.Module, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return q.softmax(-1) @ (k.softmax(-2).mT @ v)


def fused(_layer: nn.Module, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return F.scaled_dot_product_attention(q, k, v)


class Layer(nn.Module):
    def __init__(self, how: Mixed) -> None:
        super().__init__()
        self.how, self.qkv = how, nn.Linear(HEADS * WIDTH, 3 * HEADS * WIDTH)
        self.mix = nn.Parameter(torch.eye(HEADS))

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (part.view(BATCH, LENGTH, HEADS, WIDTH).transpose(1, 2) for part in self.qkv(x).chunk(3, -1))
        return x + self.how(self, q, k, v).transpose(1, 2).reshape(x.shape)


class Torchs(nn.Module):
    def __init__(self, *, weights: bool = True, read: bool = False) -> None:
        super().__init__()
        self.attend = nn.MultiheadAttention(HEADS * WIDTH, HEADS, batch_first=True)
        self.weights, self.read = weights, read

    def forward(self, x: Tensor) -> Tensor:
        mixed, weights = self.attend(x, x, x, need_weights=self.weights)
        return x + mixed + (weights.amax() if self.read else 0)


def _said(make: Callable[[], nn.Module]) -> Finding | None:
    with memgraph.virtual_gpu("a100-80gb") as gpu:
        net = nn.Sequential(*(make() for _ in range(LAYERS))).cuda()
        net(torch.randn(BATCH, LENGTH, HEADS * WIDTH, device="cuda")).sum().backward()
    return {one.name: one for one in causes(gpu.trace)}.get("attention-by-hand")


@pytest.mark.parametrize(("how", "a_layer"), [(plain, 1), (masked, 2)])
def test_what_torchs_attention_could_do(how: Mixed, a_layer: int) -> None:
    """Of each layer the softmax's result is kept, and what dropout makes of it; a backward holds two gradients."""
    one = _said(lambda: Layer(how))
    assert one is not None and LAYERS * a_layer * SCORES <= one.bytes <= (LAYERS * a_layer + 2) * SCORES
    assert one.help.startswith("F.scaled_dot_product_attention(q, k, v") and f"{LENGTH}, {LENGTH}]" in one.what
    assert one.where.startswith("analyze/test_causes_of_scores.py:")


def test_the_weights_that_nobody_asked_for() -> None:
    one = _said(Torchs)
    assert one is not None and one.bytes >= LAYERS * SCORES
    assert one.help.endswith("attn(query, key, value, need_weights=False)")


@pytest.mark.parametrize("how", [kept, capped, mixed_heads, linear, fused])
def test_what_it_could_not_do_is_no_cause(how: Mixed) -> None:
    """Its weights are read, its scores bent, its heads mixed; there are none; it is done already."""
    assert _said(lambda: Layer(how)) is None


@pytest.mark.parametrize("options", [{"weights": False}, {"read": True}])
def test_weights_that_are_read_or_left_out_are_no_cause(options: dict[str, bool]) -> None:
    assert _said(lambda: Torchs(**options)) is None
