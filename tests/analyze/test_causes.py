"""Causes with their remedy: each where the bytes show it, and none where they do not."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.optim.optimizer import Optimizer
from torch.utils.checkpoint import checkpoint

import memgraph
from memgraph.analyze.causes import causes
from memgraph.analyze.finding import Finding
from memgraph.trace import Trace

MIB = 2**20


def found(trace: Trace) -> dict[str, Finding]:
    return {one.name: one for one in causes(trace)}


# ---- copies


def _product(*, amp: bool, broadcast: bool = False) -> Trace:
    """A table of 4096 × 64 against 512 vectors."""
    with memgraph.virtual_gpu("a100-80gb") as gpu:
        base = torch.randn(4096, 64, device="cuda")
        vectors = torch.randn(512, 64, device="cuda")
        with torch.autocast("cuda", torch.float16, enabled=amp):
            out = vectors @ base.t() if broadcast else base.expand(512, -1, -1).bmm(vectors.unsqueeze(-1))
        del out
    return gpu.trace


def test_autocast_writes_an_expanded_view_out() -> None:
    """512 × 4096 × 64 elements of two bytes, of a table of one MiB."""
    one = found(_product(amp=True))["expanded-copy"]
    assert one.bytes == 512 * 4096 * 64 * 2
    assert one.where.startswith("analyze/test_causes.py:") and "1.000 MiB" in one.what


def test_no_copy_no_word() -> None:
    assert not found(_product(amp=False))
    assert not found(_product(amp=True, broadcast=True))


def _attend(mask: str) -> Trace:
    with memgraph.virtual_gpu("a100-80gb") as gpu, torch.no_grad():
        q, k, v = (torch.randn(4, 8, 1024, 64, device="cuda") for _ in range(3))
        keep = torch.ones(4, 1024, device="cuda").bool()[:, None, None, :]
        wide = {"none": None, "as it is": keep, "expanded": keep.expand(4, 8, 1024, 1024),
                "numbers": torch.zeros(4, 8, 1024, 1024, device="cuda") if mask == "numbers" else None,
                "chosen": torch.zeros(4, 8, 1024, 1024, device="cuda").masked_fill(~keep, -1e4),
                "repeated": (1 - keep.float()).mul(-1e4).repeat(1, 8, 1024, 1),
                "learned": (torch.randn(8, 1024, 1024, device="cuda") + keep.float().log()),
                "of a sample": keep.float().log() + torch.full((1024, 1024), -1e4, device="cuda").triu(1)}  # fmt: skip
        F.scaled_dot_product_attention(q, k, v, attn_mask=wide[mask])
    return gpu.trace


def test_a_mask_that_is_expanded_over_heads() -> None:
    """Four of a query's: 4 × 8 × 1024 × 1024 numbers of four bytes, chosen between two scalars by the view itself."""
    one = found(_attend("expanded"))["expanded-mask"]
    assert one.bytes == 4 * 8 * 1024 * 1024 * 4
    assert "4.000 KiB, [4, 1, 1, 1024]" in one.what


@pytest.mark.parametrize("mask", ["chosen", "repeated"])
def test_a_mask_of_numbers_that_says_no_more_than_one_row(mask: str) -> None:
    """The same 4 × 8 × 1024 × 1024 numbers of four bytes."""
    one = found(_attend(mask))["expanded-mask"]
    assert one.bytes == 4 * 8 * 1024 * 1024 * 4
    assert "[4, 8, 1024, 1024], that say no more than" in one.what and "[4, 1, 1, 1024]" in one.help


@pytest.mark.parametrize("mask", ["none", "as it is", "numbers", "learned", "of a sample"])
def test_other_masks_are_no_cause(mask: str) -> None:
    assert "expanded-mask" not in found(_attend(mask))


def _loss(words: int, *, amp: bool, chunks: int = 1) -> Trace:
    with memgraph.virtual_gpu("a100-80gb") as gpu:
        hidden, head = torch.randn(2048, 64, device="cuda"), nn.Linear(64, words, bias=False).cuda()
        targets = torch.zeros(2048, dtype=torch.long, device="cuda")
        for part, target in zip(hidden.chunk(chunks), targets.chunk(chunks), strict=True):
            with torch.autocast("cuda", torch.bfloat16, enabled=amp):
                loss = F.cross_entropy(head(part), target)
            loss.backward()
            del loss
    return gpu.trace


def test_logits_are_copied_to_fp32() -> None:
    """At the peak the log-softmax, its copy for the loss in fp32 and a gradient in fp32."""
    one = found(_loss(32000, amp=True))["logits-in-fp32"]
    assert one.bytes == 2048 * 32000 * (2 + 4 + 4)
    assert "[2048, 32000]" in one.what and "chunk" in one.help


def test_logits_that_are_fp32_anyhow_are_few_or_come_in_chunks() -> None:
    assert not found(_loss(32000, amp=False))
    assert not found(_loss(1000, amp=True))
    assert "[2048" not in str(found(_loss(32000, amp=True, chunks=8)))


# ---- training


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.up, self.down = nn.Linear(64, 256), nn.Linear(256, 64)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.down(torch.relu(self.up(x)))


class Net(nn.Module):
    def __init__(self, how: str) -> None:
        super().__init__()
        self.how = how
        self.blocks, self.head = nn.Sequential(*(Block() for _ in range(8))), nn.Linear(64, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.how == "whole":
            x = checkpoint(self.blocks, x, use_reentrant=False)
        elif self.how == "halves":
            for half in (self.blocks[:4], self.blocks[4:]):
                x = checkpoint(half, x, use_reentrant=False)
        else:
            for block in self.blocks:
                x = checkpoint(block, x, use_reentrant=False) if self.how == "each" else block(x)
        return self.head(x)


def _trained(how: str) -> Trace:
    with memgraph.virtual_gpu("a100-80gb") as gpu:
        net = Net(how).cuda()
        update = torch.optim.SGD(net.parameters())
        for _ in range(2):
            net(torch.randn(16384, 64, device="cuda")).sum().backward()
            update.step()
            update.zero_grad()
    return gpu.trace


def test_a_checkpoint_around_everything() -> None:
    """Of each block the relu's result, 16384 × 256 × 4, is alive again in the backward; of the last it is freed."""
    one = found(_trained("whole"))["checkpoint-too-wide"]
    assert 7 * 16384 * 256 * 4 <= one.bytes < 8 * 16384 * (256 + 64) * 4
    assert "7 of the 8 layers blocks.*" in one.what and one.where.startswith("analyze/test_causes.py:")


@pytest.mark.parametrize("how", ["none", "each", "halves"])
def test_narrower_checkpoints_are_no_cause(how: str) -> None:
    assert not found(_trained(how))


class Rooted(Optimizer):
    """One of a package: it updates all parameters at once, and has no other form."""

    def __init__(self, params: Iterable[nn.Parameter]) -> None:
        super().__init__(params, {})

    @torch.no_grad()
    def step(self, closure: Any = None) -> Any:
        parameters = [p for p in self.param_groups[0]["params"] if p.grad is not None]
        torch._foreach_add_(parameters, torch._foreach_mul(torch._foreach_sign([p.grad for p in parameters]), -0.1))


def test_what_foreach_makes_of_all_parameters() -> None:
    """AdamW's square roots, an fp32 of every weight."""
    one = found(_updated(foreach=True))["foreach-temporaries"]
    assert one.bytes == 4 * 8 * 2048**2
    assert one.where.startswith("analyze/test_causes.py:")


@pytest.mark.parametrize(
    ("optimizer", "help_"),
    [
        (torch.optim.AdamW, "fused=True, which makes none, or foreach=False, a slower loop"),
        (torch.optim.RMSprop, "foreach=False, a slower loop; RMSprop has no fused form"),
        (torch.optim.NAdam, "foreach=False, a slower loop; NAdam has no fused form"),
        (Rooted, "another optimizer, like torch's AdamW with fused=True: Rooted has no other form"),
    ],
)
def test_instead_of_foreach_is_said_what_the_optimizer_has(optimizer: type[Optimizer], help_: str) -> None:
    assert found(_updated(optimizer))["foreach-temporaries"].help == help_


@pytest.mark.parametrize("options", [{"foreach": False}, {"fused": True}])
def test_other_forms_of_the_optimizer_are_no_cause(options: dict[str, bool]) -> None:
    assert not found(_updated(**options))


def _updated(optimizer: Callable[..., Optimizer] = torch.optim.AdamW, **options: bool) -> Trace:
    """Eight weights of 16 MiB."""
    with memgraph.virtual_gpu("a100-80gb") as gpu:
        net = nn.Sequential(*(nn.Linear(2048, 2048, bias=False) for _ in range(8))).cuda()
        update = optimizer(net.parameters(), **options)
        for _ in range(2):
            net(torch.randn(1, 2048, device="cuda")).sum().backward()
            update.step()
            update.zero_grad()
    return gpu.trace


def _cached(cache: bool) -> Trace:
    transformers = pytest.importorskip("transformers")
    config = transformers.LlamaConfig(
        vocab_size=100, hidden_size=512, intermediate_size=128, num_hidden_layers=2, num_attention_heads=2,
        num_key_value_heads=2, use_cache=cache,
    )  # fmt: skip
    with memgraph.virtual_gpu("a100-80gb") as gpu:
        model = transformers.LlamaForCausalLM(config).cuda()
        ids = torch.zeros(32, 512, dtype=torch.long, device="cuda")
        model(input_ids=ids, labels=ids).loss.backward()
    return gpu.trace


def test_keys_and_values_are_kept_in_training() -> None:
    """Two layers' keys and values, 32 × 512 × 512 × 4 bytes each, as far as they are copies."""
    one = found(_cached(True))["cache-in-training"]
    assert one.bytes in (2 * 32 * 512 * 512 * 4, 4 * 32 * 512 * 512 * 4) and "use_cache=False" in one.help
    assert "cache-in-training" not in found(_cached(False))


def test_no_batch_is_small_enough() -> None:
    """A weight of 64 MiB, its gradient and two moments, and a step count: 256 MiB and 4 bytes."""

    def trained(memory: int) -> Trace:
        with memgraph.virtual_gpu("a100-80gb", memory=memory) as gpu:
            net = nn.Linear(4096, 4096, bias=False).cuda()
            update = torch.optim.AdamW(net.parameters(), fused=True)
            net(torch.randn(1, 4096, device="cuda")).sum().backward()
            update.step()
        return gpu.trace

    assert found(trained(200 * MIB))["not-the-batch"].bytes == 256 * MIB + 4
    assert not found(trained(400 * MIB))


# ---- the allocator


def _lengths(alloc_conf: str | None, *, vary: bool) -> Trace:
    with memgraph.virtual_gpu("a100-80gb", alloc_conf=alloc_conf) as gpu:
        kept = []
        for step in range(12):
            rows = 300 + 40 * step if vary else 300
            parts = [torch.empty(rows * 2**10 * 64, dtype=torch.uint8, device="cuda") for _ in range(8)]
            kept.append(torch.empty(rows * 2**10 * 8, dtype=torch.uint8, device="cuda"))
            del parts
    return gpu.trace


def test_lengths_that_change_leave_pieces() -> None:
    """The figure with segments that grow is that of the same program run with them."""
    one = found(_lengths(None, vary=True))["fragmented"]
    growing = _lengths("expandable_segments:True", vary=True)
    assert not found(growing)
    assert one.bytes == _lengths(None, vary=True).peak.reserved - growing.peak.reserved


def test_equal_lengths_leave_none() -> None:
    assert not found(_lengths(None, vary=False))


def test_small_programs_are_left_alone() -> None:
    with memgraph.virtual_gpu("a100-80gb") as gpu, torch.autocast("cuda", torch.float16):
        torch.randn(4096, 64, device="cuda").expand(64, -1, -1).bmm(torch.randn(64, 64, 1, device="cuda"))
    assert not found(gpu.trace)
