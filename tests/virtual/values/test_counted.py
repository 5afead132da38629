"""Masks of which it is known how many elements are set, and not which."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

import memgraph
from memgraph.trace import Role, Trace
from memgraph.virtual.values import counted

ROWS = 200


def chosen(count: int, *, rows: int = ROWS, kind: torch.dtype = torch.uint8) -> Tensor:
    """A mask of `count` rows that nobody knows, as detectors sample them."""
    places = torch.rand(rows, device="cuda").gt(0.5).nonzero().flatten()
    mask = torch.zeros(rows, dtype=kind, device="cuda")
    mask[places[torch.randperm(len(places), device="cuda")[:count]]] = 1
    return mask


def found(mask: Tensor) -> int:
    """How many rows a run takes it to select."""
    return len(torch.where(mask)[0])


@pytest.mark.parametrize("rows", [ROWS, 100_000])  # bounds of each element are followed up to 65,536
def test_a_mask_set_at_so_many_places_selects_so_many(rows: int) -> None:
    with memgraph.virtual_gpu("t4") as gpu:
        mask = chosen(30, rows=rows)
        boxes = torch.randn(rows, 4, device="cuda")
        assert found(mask) == 30
        assert boxes[mask == 1].shape == (30, 4)
        assert boxes.masked_select((mask != 0).unsqueeze(1)).numel() == 30 * 4  # spread over four columns
    assert any("30 of at most 30 elements" in text for text in gpu.trace.assumptions)


def test_the_share_that_is_selected_is_of_that_number() -> None:
    with memgraph.virtual_gpu("t4", select=0.5):
        places = torch.arange(ROWS, device="cuda")[torch.randperm(ROWS, device="cuda")[:30]]
        mask = torch.zeros(ROWS, dtype=torch.uint8, device="cuda")
        mask[places] = 1
        assert found(mask) == 15


def test_numbers_add_up_through_logic_and_copies() -> None:
    with memgraph.virtual_gpu("t4"):
        first, second = chosen(30), chosen(50)
        assert found(first | second) == 80
        assert found(first & second) == 30
        assert found(torch.cat([first, second])) == 80
        assert found(torch.cat([first, second]).view(2, ROWS).bool().clone()) == 80
        assert found(first == 0) == ROWS
        assert found(first.expand(3, ROWS)) == 3 * ROWS
        first |= second
        assert found(first) == 80
        assert first.bool().sum().item() <= 80


def test_a_row_of_a_mask_has_what_is_set_in_it_and_what_it_has_room_for() -> None:
    with memgraph.virtual_gpu("t4"):
        masks = torch.zeros(2, ROWS, dtype=torch.bool, device="cuda")
        masks[0] = chosen(30).bool()
        assert found(masks) == 30
        assert found(masks[1]) == 30  # the storage's number serves for each part
        assert found(masks[:, :7]) == 14
        masks[1, 5] = True
        assert found(masks) in (31, 2 * ROWS)


def test_what_is_written_over_otherwise_is_not_counted_any_more() -> None:
    with memgraph.virtual_gpu("t4"):
        mask = chosen(30)
        view = mask[:100]
        mask.bitwise_xor_(torch.rand(ROWS, device="cuda").gt(0.5).byte())
        assert found(mask) == ROWS
        assert found(view) == 100
        mask.zero_()
        assert found(mask) in (0, ROWS)


@pytest.mark.parametrize("way", ["index_put", "scatter", "scatter number", "index_fill", "masked_fill"])
def test_each_way_to_write_ones_counts_them(way: str) -> None:
    """A target for each of 8 rows among 10 classes: 8 ones; two columns, 16; five columns, 40."""
    with memgraph.virtual_gpu("t4"):
        labels = torch.randn(8, 10, device="cuda").argsort(1)[:, 3]
        mask = torch.zeros(8, 10, dtype=torch.int64, device="cuda")
        if way == "index_put":
            mask[torch.arange(8, device="cuda"), labels] = 1
        elif way == "scatter":
            mask.scatter_(1, labels[:, None], torch.ones(8, 1, dtype=torch.int64, device="cuda"))
        elif way == "scatter number":
            mask = mask.scatter(1, labels[:, None], 1)
        elif way == "index_fill":
            mask.index_fill_(1, labels[:2], 1)
        else:
            mask.masked_fill_(chosen(5, rows=10) == 1, 1)  # in each row
        assert found(mask == 1) == {"index_fill": 16, "masked_fill": 40}.get(way, 8)


@pytest.mark.parametrize("kind", [torch.float32, torch.bfloat16, torch.int64])
def test_a_margin_loss_takes_one_cosine_of_each_row(kind: torch.dtype) -> None:
    """As ArcFace: each of 8 rows has one class of 10, which is marked in a table of the logits' own type."""
    with memgraph.virtual_gpu("t4") as gpu:
        labels = torch.randn(8, 10, device="cuda").argsort(1)[:, 3]
        cosine = torch.randn(8, 10, device="cuda", requires_grad=True)
        for mask in (torch.zeros(8, 10, dtype=kind, device="cuda"), torch.zeros_like(cosine, dtype=kind)):
            mask[torch.arange(8), labels] = 1
            margin = cosine[mask == 1]
            assert margin.shape == (8,)
            (cosine + mask * (margin - 0.5).unsqueeze(1)).sum().backward()
    assert not gpu.trace.unknown_ops


def test_nothing_is_known_of_what_carries_no_value() -> None:
    assert counted.most(None) is None
    assert counted.most(torch.tensor([0, 3, 4])) == 2


def positions(trace: Trace) -> list[int]:
    """Of each `index_put_` the most bytes that it takes at once besides the target: the places of its mask."""
    taken: dict[int, int] = {}
    for buffer in trace.buffers:
        if buffer.role == Role.TEMPORARY and "index_put" in trace.ops[buffer.op].name:
            taken[buffer.op] = max(taken.get(buffer.op, 0), buffer.size)
    return list(taken.values())


def test_a_tensor_put_through_a_mask_takes_the_places_that_it_selects() -> None:
    """Eight bytes for each of them, by a mask that is known, or known to have so many, or by one that nobody knows: all
    its elements. A number from the host is a `masked_fill`, which takes none."""
    with memgraph.virtual_gpu("t4") as gpu:
        boxes = torch.randn(ROWS, 4, device="cuda")
        boxes[torch.arange(ROWS, device="cuda") < 150] = torch.ones(4, device="cuda")
        boxes[chosen(180) == 1] = torch.ones(4, device="cuda")
        boxes[boxes[:, 0] > 0] = torch.ones(4, device="cuda")
        boxes[boxes[:, 1] > 0] = 0.0
    known, counted_, unknown = (size for size in positions(gpu.trace) if size > 1023)  # the selection's scratch
    assert (known, counted_, unknown) == (8 * 150, 8 * 180, 8 * ROWS)
    assert not gpu.trace.unknown_ops
    stated = [text for text in gpu.trace.assumptions if text.startswith("index_put at")]
    assert [text.partition(": ")[2].split(" ")[0] for text in stated] == ["180", "200"]


def test_what_is_added_through_an_unknown_mask_is_sorted_by_all_its_places() -> None:
    with memgraph.virtual_gpu("t4", select=0.5) as gpu:
        boxes = torch.randn(ROWS, 4, device="cuda")
        boxes.index_put_((boxes[:, 0] > 0,), torch.ones(4, device="cuda"), accumulate=True)
    assert not gpu.trace.unknown_ops
    assert 8 * ROWS // 2 in [buffer.size for buffer in gpu.trace.buffers if buffer.role == Role.TEMPORARY]
