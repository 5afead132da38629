"""What is partly known decides as soon as the unknown part cannot change it, and never before."""

from __future__ import annotations

from collections.abc import Callable
from itertools import product

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import memgraph

Make = Callable[[], Tensor]


def floats(*shape: int) -> Tensor:
    """Values that nobody knows."""
    return torch.randn(shape, device="cuda")


def flags(*values: bool) -> Tensor:
    """Known booleans."""
    return torch.tensor(values, device="cuda")


def maybe(n: int = 2) -> Tensor:
    """Booleans that nobody knows."""
    return floats(n) > 0


def digits(n: int = 4) -> Tensor:
    """0 to 9 each, more is not known."""
    return torch.randint(0, 10, (n,), device="cuda")


CERTAIN: dict[str, tuple[Callable[[], Tensor], bool | int]] = {
    "true or unknown": (lambda: (flags(True, True) | maybe()).all(), True),
    "false and unknown": (lambda: (flags(False, False) & maybe()).any(), False),
    "logical or": (lambda: torch.logical_or(flags(True, True), maybe()).all(), True),
    "one is enough for any": (lambda: torch.cat([maybe(3), flags(True)]).any(), True),
    "one is enough for not all": (lambda: torch.cat([maybe(3), flags(False)]).all(), False),
    "a number and an unknown": (lambda: (torch.zeros(2, dtype=torch.long, device="cuda") & ~maybe()).max(), 0),
    "times nothing": (lambda: (maybe() * torch.zeros(2, dtype=torch.long, device="cuda")).sum(), 0),
    "where it does not matter": (lambda: torch.where(maybe(), flags(True, True), flags(True, True)).all(), True),
    "filled with what is there": (lambda: flags(True, True).masked_fill(maybe(), True).all(), True),
    "filled over": (lambda: (maybe() | flags(True, False)).masked_fill(flags(False, True), True).all(), True),
    "in place": (lambda: flags(True, True).logical_and_(maybe()).logical_or_(flags(True, True)).all(), True),
    "beyond its bounds": (lambda: (digits() < 10).all(), True),
    "not among them": (lambda: torch.isin(digits(), torch.tensor([12, 17], device="cuda")).any(), False),
    "not equal": (lambda: (digits() == 11).any(), False),
    "arithmetic": (lambda: ((digits() * 3 + 1 - digits()) <= 28).all(), True),
    "division": (lambda: (digits() // 5 < 2).all(), True),
    "remainder": (lambda: ((digits() + 20) % 7 < 7).all(), True),
    "the index of a maximum": (lambda: (floats(3, 10).argmax(-1) < 10).all(), True),
    "the indices of the largest": (lambda: (floats(3, 10).topk(2).indices >= 0).all(), True),
    "the known ones of both": (lambda: torch.cat([flags(True), maybe(1)])[0], True),
    "read at an unknown place": (lambda: (torch.arange(5, device="cuda")[digits() // 2] < 5).all(), True),
    "a sum of flags": (lambda: (flags(True, True).long() + maybe().long()).sum() > 1, True),
    "as a boolean": (lambda: ((digits() + 1).bool()).all(), True),
}


@pytest.mark.parametrize("name", CERTAIN)
def test_certain(name: str) -> None:
    op, value = CERTAIN[name]
    with memgraph.virtual_gpu("rtx3090") as gpu:
        assert op().item() == value
    assert gpu.trace.assumptions == ()


UNCERTAIN: dict[str, Callable[[], Tensor]] = {
    "false or unknown": lambda: (flags(False, False) | maybe()).any(),
    "true and unknown": lambda: (flags(True, True) & maybe()).all(),
    "all of some": lambda: torch.cat([maybe(3), flags(True)]).all(),
    "within its bounds": lambda: (digits() < 9).all(),
    "among them": lambda: torch.isin(digits(), torch.tensor([3], device="cuda")).any(),
    "equal": lambda: (digits() == digits()).all(),
    "where it matters": lambda: torch.where(maybe(), flags(True, True), flags(False, False)).any(),
    "exclusive": lambda: (flags(True, True) ^ maybe()).all(),
    "over it": lambda: flags(True, True).copy_(maybe()).all(),
    "a view of it": lambda: torch.cat([flags(True), maybe(1)])[1],
}


@pytest.mark.parametrize("name", UNCERTAIN)
def test_uncertain(name: str) -> None:
    with memgraph.virtual_gpu("rtx3090") as gpu:
        assert UNCERTAIN[name]().item() is False
    (text,) = gpu.trace.assumptions
    assert text.startswith("a condition on unknown values at ")


def test_three_valued_logic_is_that_of_every_case() -> None:
    """For each pair of False, True and unknown, the answer is the one that all completions share, if they do."""
    logic = {"|": torch.bitwise_or, "&": torch.bitwise_and, "^": torch.bitwise_xor}
    for (name, op), left, right in product(logic.items(), (False, True, None), (False, True, None)):
        choices = product(*[(False, True) if side is None else (side,) for side in (left, right)])
        answers = {bool(op(torch.tensor(a), torch.tensor(b))) for a, b in choices}
        with memgraph.virtual_gpu("rtx3090") as gpu:
            result = op(*[maybe(1)[0] if side is None else flags(side)[0] for side in (left, right)]).item()
        assert (len(answers) == 1) is (gpu.trace.assumptions == ()), (left, name, right)
        assert result in answers, (left, name, right)


def test_views_see_what_is_written_through_another() -> None:
    with memgraph.virtual_gpu("rtx3090") as gpu:
        whole = torch.zeros(4, dtype=torch.bool, device="cuda")
        left, right = whole[:2], whole[2:]
        left |= maybe()
        assert not right.any()
        whole |= flags(True, True, False, False)
        assert left.all()
        right.fill_(True)
        assert whole.all()
    assert gpu.trace.assumptions == ()


def test_a_loop_with_a_limit_known_on_the_host_ends_there() -> None:
    """As transformers' `generate`: an unknown test for the end of a sequence, or-ed with the length."""
    with memgraph.virtual_gpu("rtx3090") as gpu:
        ids = torch.ones(2, 4, dtype=torch.long, device="cuda")
        unfinished = torch.ones(2, dtype=torch.long, device="cuda")
        while True:
            ids = torch.cat([ids, floats(2, 10).argmax(-1, keepdim=True)], 1)
            done = torch.full((2,), ids.shape[1] >= 9, device="cuda")
            done = done | torch.isin(ids[:, -1], torch.tensor([3], device="cuda"))
            unfinished = unfinished & ~done
            if unfinished.max() == 0:
                break
    assert ids.shape == (2, 9)
    assert len(gpu.trace.assumptions) == 1
    assert gpu.trace.assumptions[0].endswith("is taken to be False (4 times)")


def test_following_bounds_costs_the_device_nothing() -> None:
    """16 bytes of flags made of a comparison of 4 floats and a constant of 16."""
    with memgraph.virtual_gpu("rtx3090") as gpu:
        x = floats(4)
        done = (x > 0) | torch.ones(4, dtype=torch.bool, device="cuda")
    assert [buffer.size for buffer in gpu.trace.buffers] == [16, 4, 4, 4]
    assert done.shape == (4,)


def test_a_mask_of_flags_that_nobody_knows_becomes_one_of_infinities() -> None:
    """`F._canonical_mask` of nn.MultiheadAttention: padding is `-inf` in zeros, wherever it is. DETR's is a mask that
    was interpolated."""
    with memgraph.virtual_gpu("rtx3090"):
        attend = nn.MultiheadAttention(64, 4).cuda()
        x = torch.rand(100, 2, 64, device="cuda")
        padding = torch.ones(2, 50, dtype=torch.bool, device="cuda")
        padding = F.interpolate(padding[None].float(), size=100).to(torch.bool)[0]
        assert attend(x, x, x, key_padding_mask=padding)[0].shape == x.shape
        padding[0, :50] = False
        assert attend(x, x, x, key_padding_mask=padding)[0].shape == x.shape
