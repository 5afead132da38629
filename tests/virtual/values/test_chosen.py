"""Choices are shared out evenly: what a router sends to its experts, in whichever way the rows are picked."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F  # as everybody calls it

import memgraph

ROWS, EXPERTS, EACH = 1000, 8, 2


def routed() -> Tensor:
    """The 2 experts of each of 1,000 rows."""
    return torch.randn(ROWS, EXPERTS, device="cuda").topk(EACH, dim=-1).indices


def by_nonzero(chosen: Tensor) -> list[int]:
    return [len((chosen == expert).nonzero(as_tuple=True)[0]) for expert in range(EXPERTS)]


def by_where(chosen: Tensor) -> list[int]:
    return [len(torch.where(chosen == expert)[0]) for expert in range(EXPERTS)]


def by_mask(chosen: Tensor) -> list[int]:
    x = torch.randn(ROWS, 4, device="cuda")
    return [len(x[(chosen == expert).any(-1)]) for expert in range(EXPERTS)]


def by_one_hot(chosen: Tensor) -> list[int]:
    masks = F.one_hot(chosen, EXPERTS).permute(2, 1, 0)
    return [len(torch.where(masks[expert])[1]) for expert in range(EXPERTS)]


def by_hits(chosen: Tensor) -> list[int]:
    """As transformers does."""
    masks = F.one_hot(chosen, EXPERTS + 1).permute(2, 1, 0)
    hit = torch.greater(masks.sum(dim=(-1, -2)), 0).nonzero()
    return [len(torch.where(masks[expert[0]])[1]) for expert in hit if expert[0] != EXPERTS]


def by_counts(chosen: Tensor) -> list[int]:
    order = chosen.flatten().argsort()
    counts: list[int] = torch.bincount(chosen.flatten(), minlength=EXPERTS).tolist()
    return [len(part) for part in order.split(counts)]


def by_condition(chosen: Tensor) -> list[int]:
    return [len((chosen == expert).nonzero()) for expert in range(EXPERTS) if (chosen == expert).any()]


@pytest.mark.parametrize("way", [by_nonzero, by_where, by_mask, by_one_hot, by_hits, by_counts, by_condition])
def test_each_expert_gets_its_share(way: Callable[[Tensor], list[int]]) -> None:
    """1,000 rows × 2 / 8 experts = 250."""
    with memgraph.virtual_gpu("rtx3090") as gpu:
        assert way(routed()) == [250] * EXPERTS
    (text,) = gpu.trace.assumptions
    assert text.startswith("2 of 8 chosen by each of 1,000 rows at values/test_chosen.py:")
    assert text.endswith("are taken to be shared out evenly: 250 rows for each, where one could get all 1,000")
    gpu.trace.self_check()


def test_where_it_does_not_divide_the_first_ones_get_one_more() -> None:
    """100 = 4 × 13 + 4 × 12."""
    with memgraph.virtual_gpu("rtx3090") as gpu:
        _, chosen = torch.randn(100, 8, device="cuda").max(-1)
        assert [len(chosen[chosen == expert]) for expert in range(8)] == [13] * 4 + [12] * 4
    assert "12 or 13 rows for each, where one could get all 100" in gpu.trace.assumptions[0]


def test_masks_exclude_each_other_and_leave_nothing_out() -> None:
    with memgraph.virtual_gpu("rtx3090"):
        chosen = routed()
        masks = [(chosen == expert).any(-1) for expert in range(EXPERTS)]
        assert len(masks[0].nonzero()) + len((~masks[0]).nonzero()) == ROWS
        first, second = chosen[:, 0], chosen[:, 1]
        assert len((first == second).nonzero()) == 0  # of the largest 2 none is there twice


class Router(nn.Module):
    """Routes within a module's forward."""

    def __init__(self) -> None:
        super().__init__()
        self.gate = nn.Linear(16, EXPERTS)

    def forward(self, x: Tensor) -> list[int]:
        chosen = self.gate(x).topk(EACH, dim=-1).indices
        return [len((chosen == expert).nonzero()) for expert in range(EXPERTS)]


def test_a_few_rows_reach_a_few_experts() -> None:
    """One token at a time, as in generation: 3 rows × 2 choices reach 6 of 8 experts."""
    with memgraph.virtual_gpu("rtx3090") as gpu:
        assert Router().cuda()(torch.randn(3, 16, device="cuda")) == [1] * 6 + [0] * 2
    assert "0 or 1 rows for each" in gpu.trace.assumptions[0]


def test_tokens_are_no_route() -> None:
    """The next tokens of 2 samples, of a vocabulary of 100: nothing is shared out, and none is the last word."""
    with memgraph.virtual_gpu("rtx3090") as gpu:
        tokens = torch.randn(2, 100, device="cuda").argmax(-1)
        assert not (tokens == 0).any()
    assert [text.partition(" at ")[0] for text in gpu.trace.assumptions] == ["a condition on unknown values"]


def test_the_largest_k_are_k_different_ones() -> None:
    """As models that drop tokens mark those they keep: 32 of 100."""
    with memgraph.virtual_gpu("rtx3090"):
        kept = torch.zeros(4, 100, dtype=torch.bool, device="cuda")
        kept.scatter_(1, torch.randn(4, 100, device="cuda").topk(32, dim=1).indices, True)
        assert torch.randn(4, 100, device="cuda")[kept].shape == (128,)


def test_classes_of_many_pixels_are_as_many_as_there_are() -> None:
    """As metrics check that predictions have no more values than there are classes: 5, of 8 x 96 x 96 pixels."""
    with memgraph.virtual_gpu("rtx3090"):
        classes = torch.randn(8, 5, 96, 96, device="cuda").argmax(1)
        assert len(torch.unique(classes)) == 5
        assert len(torch.unique(classes.flatten().to(torch.int32))) == 5
        assert torch.bincount(classes.flatten()).shape == (5,)
        classes[0] = 7
        assert len(torch.unique(classes)) == 8  # from 0 to 7


@pytest.mark.parametrize("labels_on", ["cpu", "cuda"])
def test_an_accuracy_sends_no_row_anywhere(labels_on: str) -> None:
    """As training loops count it: of 128 rows at most 128 are right, and nothing is said of how classes share them."""
    with memgraph.virtual_gpu("rtx3090") as gpu:
        labels = torch.arange(128, device=labels_on).cuda() % 10
        _, predicted = torch.rand(128, 10, device="cuda").max(1)
        right = predicted.eq(labels).sum().item()
        best = torch.rand(128, 10, device="cuda").topk(5, 1)[1].t()
        among = best.eq(labels.view(1, -1).expand_as(best))[:5].reshape(-1).float().sum(0).item()
    assert (right, among) == (1, 1.0)
    assert not [text for text in gpu.trace.assumptions if "evenly" in text]
