"""A check that raises gets the answer that goes on; so do custom ops and readers of one element."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.distributions import Bernoulli, Categorical, Normal

import memgraph


def floats(*shape: int) -> Tensor:
    """Values that nobody knows."""
    return torch.randn(shape, device="cuda")


def all_positive(x: Tensor) -> bool:
    return bool((x > 0).all())


def raises_unless_told(x: Tensor) -> str:
    """As torch 2.15's distributions ask."""
    if not all_positive(x):
        raise ValueError("negative")
    return "went on"


def raises_if(x: Tensor) -> str:
    if (x < 0).any():
        raise ValueError("negative")
    return "went on"


def raises_unless(x: Tensor) -> str:
    if not torch.all(x > 0):
        message = f"wrong: {x.shape}"
        raise ValueError(message)
    return "went on"


def raises_of_two(x: Tensor) -> str:
    if x.dim() > 1 or (x < 0).any() or (x > 1).any().item():
        raise ValueError("out of range")
    return "went on"


def raises_unless_both(x: Tensor) -> str:
    if not ((x > 0).all() and bool((x < 1).all())):
        raise ValueError("out of range")
    return "went on"


def raises_otherwise(x: Tensor) -> str:
    if (x > 0).all():
        pass
    else:
        raise ValueError("negative")
    return "went on"


def asserts(x: Tensor) -> str:
    assert (x > 0).all(), f"negative: {x.shape}"
    return "went on"  # fmt: skip


def asserts_not(x: Tensor) -> str:
    assert not (x < 0).any()
    return "went on"


@pytest.mark.parametrize(
    "check",
    [
        raises_if,
        raises_unless,
        raises_of_two,
        raises_unless_both,
        raises_otherwise,
        asserts,
        asserts_not,
        raises_unless_told,
    ],
)
def test_a_check_is_passed(check: Callable[[Tensor], str]) -> None:
    with memgraph.virtual_gpu("rtx3090") as gpu:
        assert check(floats(3)) == "went on"
    assert gpu.trace.assumptions


def test_what_raises_for_certain_raises() -> None:
    with memgraph.virtual_gpu("rtx3090"), pytest.raises(ValueError, match="negative"):
        raises_if(torch.arange(3, device="cuda") - 1)


def test_a_condition_that_raises_nothing_is_false_as_ever() -> None:
    with memgraph.virtual_gpu("rtx3090"):
        assert ("yes" if (floats(3) > 0).any() else "no") == "no"


@pytest.mark.parametrize(
    "make",
    [
        lambda: Categorical(logits=floats(8, 2)),
        lambda: Categorical(probs=floats(8, 2).softmax(-1)),
        lambda: Normal(floats(8), floats(8).exp()),
        lambda: Bernoulli(logits=floats(8)),
    ],
)
def test_distributions_check_their_arguments_and_samples(make: Callable[[], Any]) -> None:
    with memgraph.virtual_gpu("rtx3090") as gpu:
        distribution = make()
        assert distribution.log_prob(distribution.sample()).shape == (8,)
    gpu.trace.self_check()


@pytest.mark.parametrize(
    "read",
    [
        lambda mask: mask.nonzero().item(),
        lambda mask: mask.nonzero().squeeze().item(),
        lambda mask: int(torch.where(mask)[0]),
        lambda mask: floats(1000)[mask].item(),
    ],
)
def test_who_reads_one_number_of_what_is_selected_finds_one(read: Callable[[Tensor], Any]) -> None:
    with memgraph.virtual_gpu("rtx3090") as gpu:
        assert read(floats(1000) == floats()) == 1
    assert any("what is read as one number is taken to be one element" in text for text in gpu.trace.assumptions)


def test_a_tensor_of_known_size_is_refused_as_ever() -> None:
    with memgraph.virtual_gpu("rtx3090"), pytest.raises(RuntimeError, match="with 3 elements cannot be converted"):
        floats(3).item()


@torch.library.custom_op("memgraph_values::suppress", mutates_args=())
def suppress(boxes: Tensor, scores: Tensor, threshold: float) -> Tensor:
    """Of the schema of torchvision's nms."""
    return torch.arange(3)


@suppress.register_fake
def _suppress(boxes: Tensor, scores: Tensor, threshold: float) -> Tensor:
    return boxes.new_empty(torch.library.get_ctx().new_dynamic_size(), dtype=torch.long)


@torch.library.custom_op("memgraph_values::at_most", mutates_args=())
def at_most(x: Tensor) -> Tensor:
    """Gives up to five rows."""
    return x[:3].clone()


@at_most.register_fake
def _at_most(x: Tensor) -> Tensor:
    return x.new_empty(torch.library.get_ctx().new_dynamic_size(min=2, max=5), x.shape[1])


@pytest.mark.parametrize(("share", "kept", "rows"), [(1.0, 100, 5), (0.25, 25, 2), (0.0, 0, 2)])
def test_a_size_that_a_custom_op_leaves_open_is_its_bound_or_a_share_of_it(share: float, kept: int, rows: int) -> None:
    """Each of 100 boxes with its score; at least 2 and at most 5 rows: a quarter of 5, rounded up, is 2."""
    with memgraph.virtual_gpu("rtx3090", select=share) as gpu:
        boxes = torch.rand(100, 4, device="cuda")
        assert boxes[suppress(boxes, boxes[:, 0], 0.5)].shape == (kept, 4)
        assert at_most(boxes).shape == (rows, 4)
    assert gpu.trace.assumptions[0].startswith(f"{kept} of at most 100 for memgraph_values.suppress.default at ")


def test_one_more_than_the_largest_index_counts_what_there_is() -> None:
    """torch_geometric's pooling: of 20 graphs of 30 nodes each some nodes are kept, nobody knows which. The graphs are
    still 20; a number that nothing is added to is 1 as ever, and one that is known is what it is."""
    with memgraph.virtual_gpu("rtx3090"):
        graph = torch.arange(600, device="cuda") // 30
        kept = graph[torch.rand(600, device="cuda").argsort()[:400]]
        counted = int(kept.max()) + 1, kept.max().item() + 1, int(kept.max()) + 1 if kept.numel() > 0 else 0
        others = int(kept.max()), int(kept.max()) + 2, int(graph[:60].max()) + 1
    assert (counted, others) == ((20, 20, 20), (1, 3, 2))


@pytest.mark.parametrize("search", [None, "strong_wolfe"])
def test_lbfgs_remembers_as_many_steps_as_on_a_cpu(search: str | None) -> None:
    """6 iterations a step, of which the last 4 are kept: none ends early where the loss falls. (A search along a line
    finds this minimum at once on a CPU.)"""

    def iterated(device: str) -> tuple[int, int]:
        weight = torch.full((40,), 3.0, device=device, requires_grad=True)
        scale = torch.linspace(0.5, 2, 40, device=device)
        optimizer = torch.optim.LBFGS([weight], lr=0.1, max_iter=6, history_size=4, line_search_fn=search)

        def closure() -> torch.Tensor:
            optimizer.zero_grad()
            loss = ((weight - 1) * scale).pow(4).sum()
            loss.backward()  # type: ignore[no-untyped-call]
            return loss

        for _ in range(2):
            optimizer.step(closure)  # type: ignore[arg-type]
        state = optimizer.state[weight]
        return state["n_iter"], len(state["old_dirs"])

    assert search or iterated("cpu") == (12, 4)
    with memgraph.virtual_gpu("rtx3090"):
        assert iterated("cuda") == (12, 4)


def test_a_long_list_is_no_loop_that_waits() -> None:
    """As `pipeline("feature-extraction")` hands out its embeddings: 40,000 numbers."""
    with memgraph.virtual_gpu("rtx3090") as gpu:
        rows = floats(100, 400).cpu().tolist()
        assert torch.arange(6, device="cuda").view(2, 3).tolist() == [[0, 1, 2], [3, 4, 5]]
    assert (len(rows), len(rows[0]), rows[99][399]) == (100, 400, 1.0)
    assert any("turned into a list" in text for text in gpu.trace.assumptions)


def test_a_check_of_all_or_any_is_passed() -> None:
    """As gpytorch asks whether a model is given what it was made with."""

    def checked(made: list[Tensor], given: list[Tensor]) -> str:
        if not all(torch.equal(a, b) for a, b in zip(made, given, strict=True)):
            raise RuntimeError("You must train on the training inputs!")
        if any(bool((a < 0).any()) for a in given):
            raise RuntimeError("negative")
        return "passed"

    with memgraph.virtual_gpu("rtx3090"):
        x = floats(4)
        assert checked([x, x], [x.clone(), x * 1]) == "passed"
