"""What nobody knows is assumed: a condition is False, a number 1, a size its bound. Each assumption is stated once,
with its line and how often it was made."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import memgraph
from memgraph.api import run_script
from memgraph.errors import MemgraphError
from memgraph.trace import Role
from memgraph.virtual.values.assumed import Assumptions

HERE = f"{Path(__file__).parent.name}/{Path(__file__).name}"


def line() -> int:
    """The number of the caller's line."""
    return sys._getframe(1).f_lineno


def floats(*shape: int) -> Tensor:
    """Values that nobody knows."""
    return torch.randn(shape, device="cuda")


def assumed(op: Callable[[], Any]) -> tuple[Any, tuple[str, ...]]:
    """What an expression gives on a virtual GPU, and what had to be assumed, without the place."""
    with memgraph.virtual_gpu("rtx3090") as gpu:
        result = op()
    place = f" at {HERE}:{op.__code__.co_firstlineno}"
    assert all(place in text for text in gpu.trace.assumptions)
    gpu.trace.self_check()
    return result, tuple(text.replace(place, "") for text in gpu.trace.assumptions)


CONDITION = ("a condition on unknown values is taken to be False",)


@pytest.mark.parametrize(
    ("op", "value", "text"),
    [
        (lambda: floats().item(), 1.0, ("an unknown value read is taken to be 1.0",)),
        (lambda: float(floats(3).mean()), 1.0, ("an unknown value read is taken to be 1.0",)),
        (lambda: int(torch.randint(0, 9, (1,), device="cuda")), 1, ("an unknown value read is taken to be 1",)),
        (lambda: floats(3).tolist(), [1.0] * 3, ("an unknown value read is taken to be 1.0 (3 times)",)),
        (lambda: bool((floats(3) > 0).any()), False, CONDITION),
        (lambda: "yes" if floats() > 0 else "no", "no", CONDITION),
        (lambda: torch.equal(floats(3), floats(3)), False, CONDITION),
        (lambda: torch.allclose(floats(3), floats(3)), False, CONDITION),
        (lambda: f"{floats():.3f}", "1.000", ("an unknown value read is taken to be 1.0",)),
        (
            lambda: floats(3).cpu().numpy().tolist(), [1.0] * 3,
            ("the values of a tensor that is turned into an array are taken to be 1",),
        ),
    ],
)  # fmt: skip
def test_values(op: Callable[[], Any], value: object, text: tuple[str, ...]) -> None:
    assert assumed(op) == (value, text)


def shapes(result: Any) -> Any:
    """Shapes in place of tensors."""
    return tuple(result.shape) if isinstance(result, Tensor) else [shapes(part) for part in result]


@pytest.mark.parametrize(
    ("op", "shape", "text"),
    [
        (lambda: torch.nonzero(floats(4, 5)), (20, 2), "nonzero: 20 of at most 20"),
        (lambda: torch.where(floats(4, 5) > 0), [(20,), (20,)], "nonzero: 20 of at most 20"),
        (lambda: floats(4, 5)[floats(4, 5) > 0], (20,), "index: 20 of at most 20"),
        (lambda: floats(4, 5)[floats(4) > 0], (4, 5), "index: 4 of at most 4"),
        (lambda: floats(4, 5, 6)[:, floats(5) > 0], (4, 5, 6), "index: 5 of at most 5"),
        (lambda: floats(4, 5, 6)[floats(4, 5) > 0], (20, 6), "index: 20 of at most 20"),
        (lambda: floats(4).masked_select(floats(4) > 0), (4,), "masked_select: 4 of at most 4"),
        (lambda: torch.unique(floats(7)), (7,), "_unique2: 7 of at most 7"),
        (
            lambda: torch.unique(floats(7), return_inverse=True, return_counts=True),
            [(7,), (7,), (7,)], "_unique2: 7 of at most 7",
        ),
        (lambda: torch.unique_consecutive(floats(7)), (7,), "unique_consecutive: 7 of at most 7"),
        (lambda: torch.unique(floats(4, 2), dim=0), (4, 2), "unique_dim: 4 of at most 4"),
        (
            lambda: torch.unique(floats(4, 2), return_inverse=True, return_counts=True, dim=1),
            [(4, 2), (2,), (2,)], "unique_dim: 2 of at most 2",
        ),
        (
            lambda: torch.unique_consecutive(floats(4, 2), return_counts=True, dim=0),
            [(4, 2), (4,)], "unique_consecutive: 4 of at most 4",
        ),
    ],
)  # fmt: skip
def test_sizes_are_their_bounds(op: Callable[[], Any], shape: object, text: str) -> None:
    result, texts = assumed(op)
    assert shapes(result) == shape
    assert texts == (f"{text} elements are taken to be selected",)


@pytest.mark.parametrize(
    ("op", "size"),
    [
        (lambda: torch.bincount(floats(6).long()), 2),  # an unknown value is taken to be 1
        (lambda: torch.bincount(floats(6).long(), minlength=50), 50),
        (lambda: torch.repeat_interleave(floats(6).long()), 6),
        (lambda: torch.bincount(torch.randint(0, 9, (6,), device="cuda")), 9),  # the largest may be 8
        (lambda: torch.bincount(torch.randint(0, 9, (6,), device="cuda"), minlength=5), 9),
        (lambda: torch.repeat_interleave(torch.randint(0, 9, (6,), device="cuda")), 48),  # 6 × 8
    ],
)
def test_sizes_that_may_be_more_or_less_are_said(op: Callable[[], Tensor], size: int) -> None:
    result, (text,) = assumed(op)
    assert result.shape == (size,)
    assert text.endswith(f" is taken to have {size} elements")


def into(op: Callable[..., Tensor], *args: Tensor) -> Tensor:
    """A tensor that it is given, which grows."""
    out = torch.empty(0, dtype=torch.int64, device="cuda")
    assert op(*args, out=out) is out
    return out


def test_a_result_that_is_given_becomes_as_large() -> None:
    """20 places of two numbers, 8 bytes each; 3 of 5 in each row, by a known mask; the bound where it is not known."""
    with memgraph.virtual_gpu("rtx3090") as gpu:
        x = floats(4, 5)
        before = torch.cuda.memory_stats()["requested_bytes.all.current"]
        places = into(torch.nonzero, x)
        assert torch.cuda.memory_stats()["requested_bytes.all.current"] - before == 20 * 2 * 8
        some = into(torch.masked_select, x.long(), torch.tensor([True, True, False, False, True], device="cuda"))
        unknown = into(torch.masked_select, x.long(), x > 0)
    assert [tuple(result.shape) for result in (places, some, unknown)] == [(20, 2), (12,), (20,)]
    gpu.trace.self_check()


def test_a_confusion_matrix_has_its_size_for_certain() -> None:
    """21 × 20 + 20 is the largest that is counted, one less than the length that is asked for."""

    def matrix() -> Tensor:
        a, b = (torch.randint(0, 21, (4096,), device="cuda") for _ in range(2))
        return torch.bincount(21 * a + b, minlength=21 * 21).reshape(21, 21)

    result, texts = assumed(matrix)
    assert (tuple(result.shape), texts) == ((21, 21), ())


def test_what_a_unique_is_not_asked_for_takes_no_memory() -> None:
    """7 floats and the 7 that are selected of them, 28 bytes each, beside what the sort takes; the inverse and the
    counts are empty."""
    with memgraph.virtual_gpu("rtx3090") as gpu:
        chosen = torch.unique(floats(7))
    assert [buffer.size for buffer in gpu.trace.buffers if buffer.role is Role.OUTPUT] == [28, 28]
    assert chosen.shape == (7,)


def test_what_a_unique_returns_lies_in_a_storage_for_all() -> None:
    """3 of 6 numbers differ: 3 are seen of a storage for 6 · 8 bytes, and as many counts."""
    with memgraph.virtual_gpu("rtx3090"):
        kept, counts = torch.unique(torch.tensor([1, 2, 1, 2, 3, 1], device="cuda"), return_counts=True)
        assert (kept.tolist(), counts.tolist()) == ([1, 2, 3], [3, 2, 1])
        assert (kept.untyped_storage().nbytes(), counts.untyped_storage().nbytes()) == (48, 48)
        assert torch.unique(floats(4, 2), dim=0).untyped_storage().nbytes() == 32


def test_a_size_may_be_taken_to_be_a_share_of_its_bound(tmp_path: Path) -> None:
    script = tmp_path / "select.py"
    script.write_text("import torch\nx = torch.randn(1000, device='cuda')\ny = x[x > 0]\nprint(len(y))\n")
    trace, ended = run_script(str(script), gpu="rtx3090", fraction=0.25)
    assert ended.code == 0
    assert trace.assumptions == (
        f"index at {tmp_path.name}/select.py:3: 250 of at most 1,000 elements are taken to be selected",
    )


def test_a_mask_that_is_known_needs_no_assumption_although_the_values_are_not() -> None:
    result, texts = assumed(lambda: floats(5, 3)[torch.arange(5, device="cuda") > 2])
    assert (tuple(result.shape), texts) == ((2, 3), ())


def test_assigning_through_a_mask_needs_no_assumption() -> None:
    def assign() -> Tensor:
        x = floats(5)
        x[x > 0] = 1.0
        return x

    result, texts = assumed(assign)
    assert (tuple(result.shape), texts) == ((5,), ())


# Loops.


def test_a_loop_that_goes_on_while_something_holds_ends_at_once() -> None:
    with memgraph.virtual_gpu("rtx3090") as gpu:
        x, turns = floats(3), 0
        here = line() + 1
        while x.abs().sum() > 0.1:
            x, turns = x * 0.5, turns + 1
    assert turns == 0
    assert gpu.trace.assumptions == (f"a condition on unknown values at {HERE}:{here} is taken to be False",)


def test_a_loop_that_goes_on_until_something_holds_ends_at_its_limit_and_says_how_often() -> None:
    with memgraph.virtual_gpu("rtx3090") as gpu:
        done, turns = torch.zeros(3, dtype=torch.bool, device="cuda"), 0
        here = line() + 1
        while turns < 100 and not done.all():
            done, turns = done | (floats(3) > 0), turns + 1
    assert turns == 100
    # Before the first turn nothing is done, and that is known; the other 99 times it is assumed.
    assert gpu.trace.assumptions == (f"a condition on unknown values at {HERE}:{here} is taken to be False (99 times)",)


# Stated.


def test_each_place_is_stated_by_itself() -> None:
    with memgraph.virtual_gpu("rtx3090") as gpu:
        first = line() + 1
        floats().item()
        floats().item()
    assert gpu.trace.assumptions == (
        f"an unknown value read at {HERE}:{first} is taken to be 1.0",
        f"an unknown value read at {HERE}:{first + 1} is taken to be 1.0",
    )


def test_how_often_is_counted() -> None:
    assumptions = Assumptions()
    for text in ("a", "b", "a", "a"):
        assumptions.state(text)
    assert assumptions.stated == ("a (3 times)", "b")


def test_what_there_is_no_policy_for_is_refused_in_one_line_and_nothing_is_assumed() -> None:
    with memgraph.virtual_gpu("rtx3090") as gpu, pytest.raises(MemgraphError) as refused:
        torch.ops.aten.unique_dim_consecutive(floats(4, 2), 0)
    text = str(refused.value)
    assert "\n" not in text
    assert f" at {HERE}:" in text
    assert "no policy" in text
    assert gpu.trace.assumptions == ()


# Reading without values.


def test_an_array_of_a_device_tensor_or_of_one_with_a_gradient_is_refused_as_torch_does() -> None:
    with memgraph.virtual_gpu("rtx3090"):
        x = floats(3)
        with pytest.raises(TypeError, match="can't convert cuda:0 device type tensor to numpy"):
            x.numpy()
        with pytest.raises(RuntimeError, match="Can't call numpy\\(\\) on Tensor that requires grad"):
            x.requires_grad_().cpu().numpy()


def test_a_saved_model_says_that_it_has_no_values(tmp_path: Path) -> None:
    path = tmp_path / "model.pt"
    with memgraph.virtual_gpu("rtx3090") as gpu:
        here = line() + 1
        torch.save(torch.nn.Linear(3, 2).cuda().state_dict(), path)
    assert gpu.trace.assumptions == (f"a tensor is saved without values at {HERE}:{here} (2 times)",)
    with pytest.raises(MemgraphError, match=r"^a torch\.float32 tensor of shape \[2, 3\] was saved on a virtual GPU"):
        torch.load(path, weights_only=False)


def test_unique_slices_along_the_last_dimension() -> None:
    with memgraph.virtual_gpu("h200"):
        values = torch.empty(30, 40, device="cuda").unique(dim=-1)
    assert values.shape == (30, 40)


def test_what_unique_is_not_asked_for_takes_nothing() -> None:
    """A CPU tells the places of slices whether it is asked or not; of values that came from one they are known."""
    slices = torch.arange(6.0).repeat(2).view(6, 2)
    with memgraph.virtual_gpu("h200") as gpu:
        slices.cuda().unique(dim=0)
    # the slices, their places, a sort, the first of each run, the three slices that differ
    assert [buffer.size for buffer in gpu.trace.buffers][0::4] == [48, 24]


@pytest.mark.parametrize(("weights", "size"), [(torch.float32, 40), (torch.float64, 80), (torch.int64, 80)])
def test_counts_are_added_up_in_the_type_of_their_weights(weights: torch.dtype, size: int) -> None:
    with memgraph.virtual_gpu("h200"):
        index = torch.empty(100, dtype=torch.int64, device="cuda")
        counts = torch.bincount(index, weights=torch.ones(100, device="cuda", dtype=weights), minlength=10)
    assert counts.untyped_storage().nbytes() == size
