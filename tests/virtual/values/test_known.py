"""Integers whose values are known are followed through ops, also in place and through views; the rest is forgotten."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator

import pytest
import torch
from torch import Tensor

import memgraph
from memgraph.capture.session import VirtualGpu
from memgraph.virtual.values import known as values


@pytest.fixture
def gpu() -> Iterator[VirtualGpu]:
    """A virtual GPU that is open."""
    with memgraph.virtual_gpu("rtx3090") as gpu:
        yield gpu


def count(n: int = 5) -> Tensor:
    """0, 1, …, n − 1 on the device."""
    return torch.arange(n, device="cuda")


def unknown(n: int = 5) -> Tensor:
    """Integers that nobody knows."""
    return torch.randint(0, 9, (n,), device="cuda")


def in_place(a: Tensor) -> Tensor:
    a.add_(1)
    return a


def by_index(a: Tensor) -> Tensor:
    a[2] = 77
    return a


def through_a_view(a: Tensor) -> Tensor:
    a[1:].mul_(10)
    return a


def seen_through_a_view(a: Tensor) -> Tensor:
    view = a[1:]
    a.add_(10)
    return view


def into_another(a: Tensor) -> Tensor:
    b = torch.zeros(5, dtype=torch.int64, device="cuda")
    torch.add(a, a, out=b)
    return b


FOLLOWED: dict[str, tuple[Callable[[Tensor], Tensor], object]] = {
    "itself": (lambda a: a, [0, 1, 2, 3, 4]),
    "arithmetic": (lambda a: (a * 3 + 1) % 5, [1, 4, 2, 0, 3]),
    "comparison": (lambda a: a > 2, [False, False, False, True, True]),
    "reduction": (lambda a: a.sum(), 10),
    "any": (lambda a: (a > 3).any(), True),
    "cumsum": (lambda a: a.cumsum(0), [0, 1, 3, 6, 10]),
    "where": (lambda a: torch.where(a > 2, a, -a), [0, -1, -2, 3, 4]),
    "sort": (lambda a: a.sort(descending=True).values, [4, 3, 2, 1, 0]),
    "view": (lambda a: a[1:].view(2, 2), [[1, 2], [3, 4]]),
    "cat": (lambda a: torch.cat([a[:2], a[:1]]), [0, 1, 0]),
    "gather": (lambda a: (a * 2)[a[:3]], [0, 2, 4]),
    "cast": (lambda a: a.to(torch.int32).to(torch.bool), [False, True, True, True, True]),
    "from the CPU": (lambda _: torch.tensor([7, 8]).cuda(), [7, 8]),
    "to the CPU": (lambda a: a.cpu(), [0, 1, 2, 3, 4]),
    "constructed": (lambda _: torch.tensor([7, 8], device="cuda"), [7, 8]),
    "full": (lambda _: torch.full((3,), 7, device="cuda"), [7, 7, 7]),
    "float scalar": (lambda _: torch.tensor(2.5, device="cuda") * 2, 5.0),
    "in place": (in_place, [1, 2, 3, 4, 5]),
    "by index": (by_index, [0, 1, 77, 3, 4]),
    "in place through a view": (through_a_view, [0, 10, 20, 30, 40]),
    "in place seen through a view": (seen_through_a_view, [11, 12, 13, 14]),
    "out": (into_another, [0, 2, 4, 6, 8]),
}


@pytest.mark.parametrize("name", FOLLOWED)
def test_known_values_are_followed(name: str, gpu: VirtualGpu) -> None:
    op, expected = FOLLOWED[name]
    assert op(count()).tolist() == expected
    assert gpu.trace.assumptions == ()


@pytest.mark.parametrize(
    "spoil",
    [
        lambda a: a.copy_(unknown()),
        lambda a: a[1:].copy_(unknown(4)),
        lambda a: a.view(5, 1).random_(),
        lambda a: a.__setitem__(2, unknown(1)[0]),
    ],
)
def test_what_is_overwritten_with_something_unknown_is_unknown_and_its_views_too(
    spoil: Callable[[Tensor], object], gpu: VirtualGpu
) -> None:
    a = count()
    view = a[2:]
    spoil(a)
    assert values.known(a) is None
    assert values.known(view) is None
    assert view[0].item() == 1  # what is assumed, not the 2 that it was
    assert len(gpu.trace.assumptions) == 1


def test_a_tensor_that_shared_nothing_stays_known(gpu: VirtualGpu) -> None:
    a, copy = count(), count().clone()
    a.copy_(unknown())
    assert copy.tolist() == [0, 1, 2, 3, 4]
    assert gpu.trace.assumptions == ()


def test_one_unknown_operand_is_enough(gpu: VirtualGpu) -> None:
    assert values.known(count() + unknown()) is None
    assert values.known(count() + count()) is not None


def test_floats_are_followed_as_scalars_short_tables_and_masks(gpu: VirtualGpu) -> None:
    """A scalar decides branches, a short table is looked up, a mask of tokens hides them; more would mean computing
    activations."""
    assert values.known(torch.tensor(1.5, device="cuda")) is not None
    assert values.known(count().float()) is not None
    assert values.known(torch.ones(64, 1024, device="cuda")) is not None
    assert values.known(torch.ones(64, 1025, device="cuda")) is None
    assert values.known(torch.ones(1, 1, 2, device="cuda")) is None
    assert values.known(count(values.TABLE + 1).float()) is None


def test_a_mask_of_floats_beside_one_of_integers_hides_nothing(gpu: VirtualGpu) -> None:
    """As PEFT's prefixes come before the tokens: whether any is hidden decides which attention is taken."""
    mask = torch.cat([torch.ones(8, 16).to("cuda"), torch.ones(8, 128, dtype=torch.int64, device="cuda")], dim=1)
    assert bool(mask.bool().sum() == mask.numel())
    assert gpu.trace.assumptions == ()


@pytest.mark.parametrize(("elements", "known"), [(values.LIMIT, True), (values.LIMIT + 1, False)])
def test_integers_are_followed_up_to_a_size(elements: int, known: bool, gpu: VirtualGpu) -> None:
    a = torch.zeros(elements, dtype=torch.bool).cuda()
    assert (values.known(a) is not None) is known


def test_random_numbers_are_not_known(gpu: VirtualGpu) -> None:
    """The CPU's generator would give numbers, but not the device's."""
    assert values.known(unknown()) is None
    assert values.known(torch.randperm(5, device="cuda")) is None
    assert (
        values.known(count().bernoulli(0.5) if count().is_floating_point() else torch.randint_like(count(), 3)) is None
    )


def test_following_costs_the_device_nothing(gpu: VirtualGpu) -> None:
    """A mask of 5 booleans and two selected integers: 40 + 5 + 2 × 8 bytes on the device, as without values."""
    a = count()
    mask = a > 2
    chosen = a[mask]
    assert chosen.tolist() == [3, 4]
    live = [gpu.trace.buffers[i].size for i in gpu.trace.live_at(len(gpu.trace.events) - 1)]
    assert live == [40, 5, 16]


# Sizes that depend on known values.


@pytest.mark.parametrize(
    ("op", "shape"),
    [
        (lambda a: torch.nonzero(a > 2), (2, 1)),
        (lambda a: torch.where(a > 2)[0], (2,)),
        (lambda a: a[a > 2], (2,)),
        (lambda a: torch.zeros(5, 3, device="cuda")[a > 2], (2, 3)),
        (lambda a: torch.zeros(3, 5, device="cuda")[:, a > 2], (3, 2)),
        (lambda a: torch.zeros(5, device="cuda").masked_select(a > 1), (3,)),
        (lambda a: torch.unique(a % 2), (2,)),
        (lambda a: torch.unique_consecutive(a // 2), (3,)),
        (lambda a: torch.repeat_interleave(a, a), (10,)),  # 0 + 1 + 2 + 3 + 4
        (lambda a: torch.bincount(a * 2), (9,)),  # the largest is 8
        (lambda a: torch.nn.functional.one_hot(a), (5, 5)),
    ],
)
def test_sizes_that_depend_on_known_values_are_true(
    op: Callable[[Tensor], Tensor], shape: tuple[int, ...], gpu: VirtualGpu
) -> None:
    assert op(count()).shape == shape
    assert gpu.trace.assumptions == ()


def test_conditions_on_known_values_are_true(gpu: VirtualGpu) -> None:
    steps = torch.zeros((), dtype=torch.int64, device="cuda")
    while steps < 4:
        steps = steps + 1
    assert int(steps) == 4
    assert torch.equal(count(), count())
    assert not torch.equal(count(), count() + 1)
    assert gpu.trace.assumptions == ()


def test_a_scaler_takes_each_step() -> None:
    """What it checks is taken to be finite, which is said; else AdamW would have no state."""
    with memgraph.virtual_gpu("t4") as gpu:
        model = torch.nn.Linear(64, 64).cuda()
        optimizer, scaler = torch.optim.AdamW(model.parameters()), torch.amp.GradScaler("cuda")
        scaler.scale(model(torch.zeros(4, 64, device="cuda")).square().mean()).backward()
        scaler.step(optimizer)
        scaler.update()
        assert len(optimizer.state) == 2
    assert "gradients that a scaler checks are taken to be finite: each step is taken" in gpu.trace.assumptions


def test_a_short_table_of_floats_is_looked_up() -> None:
    """diffusers' schedulers find a step by its time, `(timesteps == t).nonzero()`, and read the next one's noise."""
    with memgraph.virtual_gpu("h100") as gpu:
        times = torch.linspace(999, 0, 4).to("cuda")
        noise = torch.cat([times / 999, times.new_zeros(1)])
        found = [(times == time).nonzero() for time in times]
        assert [index.shape for index in found] == [(1, 1)] * 4
        assert [noise[index.item() + 1].item() for index in found][-1] == 0
        norm = torch.nn.BatchNorm1d(4).cuda()
        norm(torch.randn(3, 4, device="cuda"))
        assert norm.running_mean is not None
        assert norm.running_mean.sum().item() == 1.0  # assumed: nobody knows what was written
    assert len(gpu.trace.assumptions) == 1


def test_attributes_of_a_tensor_can_be_copied_and_its_values_stay_its_own() -> None:
    """As MONAI's `MetaTensor` copies a tensor's `__dict__`: plain tensors cloned, all else deep."""
    with memgraph.virtual_gpu("t4"):
        known, bounded = torch.arange(5, device="cuda"), torch.randint(0, 9, (5,), device="cuda")
        for tensor in (known, bounded):
            own = {
                name: value.clone() if isinstance(value, torch.Tensor) else copy.deepcopy(value)
                for name, value in vars(tensor).items()
            }
            vars(tensor).update(own)
        assert known.sum().item() == 10
        assert (bounded < 9).all()
        assert (known.cuda() * 2).sum().item() == 20
        assert bounded.sum().item() <= 5 * 8


def test_a_bag_of_known_rows_goes_backward() -> None:
    """Its weights are few enough to be followed; what a CPU's kernel leaves out, CUDA's backward is given."""
    weight, rows = torch.rand(10, 5), torch.tensor([1, 5, 4, 5, 9])
    with memgraph.virtual_gpu("t4"):
        leaf = weight.cuda().requires_grad_()
        scale = torch.ones(5).cuda().requires_grad_()
        bag = torch.nn.functional.embedding_bag(
            rows.cuda(), leaf, torch.tensor([0, 3]).cuda(), mode="sum", per_sample_weights=scale
        )
        found = torch.autograd.grad(bag, [leaf, scale], torch.rand(2, 5).cuda())
        assert [one.shape for one in found] == [(10, 5), (5,)]
