"""Steps that a real run takes in place, kernels of PyTorch's own, and libraries that ask whether they are traced."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import memgraph
from memgraph.trace import Action, Role, Trace


def allocations(run: Callable[[], object], start: Callable[[], object] = lambda: None) -> Trace:
    with memgraph.virtual_gpu("h200") as gpu:
        start()
        run()
    gpu.trace.self_check()
    return gpu.trace


def sizes(trace: Trace, op: str) -> list[int]:
    """Requested bytes that calls of an op allocated, in order."""
    return [b.size for b in trace.buffers if b.op >= 0 and trace.ops[b.op].name.startswith(f"aten.{op}.")]


def test_a_mean_squared_error_keeps_the_storage_of_its_elements() -> None:
    """Recorded: `mse_loss` of 256,000 bytes leaves a scalar whose storage has 256,000 bytes."""

    def run() -> None:
        a = torch.randn(1000, 64, device="cuda")
        losses = [F.mse_loss(a, a) for _ in range(2)]
        assert [loss.shape for loss in losses] == [(), ()]
        assert F.mse_loss(a, a, reduction="none").shape == (1000, 64)

    trace = allocations(run)
    outputs = [
        b.size for b in trace.buffers if trace.ops[b.op].name == "aten.mse_loss.default" and b.role is Role.OUTPUT
    ]
    assert outputs == [256_000, 256_000, 256_000]


@pytest.mark.parametrize("loss", [F.binary_cross_entropy, F.soft_margin_loss])
def test_so_do_losses_that_are_resized(loss: Callable[..., torch.Tensor]) -> None:
    """Of 256,000 bytes of losses the mean of 4 is made and copied into them. Recorded with a VAE of MNIST, whose sum of
    128 x 784 binary cross-entropies held 401,408 bytes on an H200."""

    def run() -> None:
        a = torch.rand(1000, 64, device="cuda")
        assert [loss(a, a, reduction=how).shape for how in ("mean", "sum", "none")] == [(), (), (1000, 64)]

    assert sizes(allocations(run), loss.__name__) == [256_000, 4, 256_000, 4, 256_000]


def test_the_gradient_of_a_maximum_is_scattered_in_place() -> None:
    def run() -> None:
        x = torch.randn(64, 100, device="cuda", requires_grad=True)
        x.max(1).values.sum().backward()
        assert x.grad is not None
        assert x.grad.shape == (64, 100)

    trace = allocations(run)
    assert sizes(trace, "new_zeros") == [25_600]
    assert not sizes(trace, "scatter")


@pytest.mark.parametrize("mode", ["sum", "mean", "max"])
def test_embedding_bags(mode: str) -> None:
    def run() -> None:
        bag = nn.EmbeddingBag(500, 16, mode=mode).cuda()
        bag(torch.randint(0, 500, (8, 4), device="cuda")).sum().backward()
        assert bag.weight.grad is not None

    assert not allocations(run).unknown_ops


def test_distances() -> None:
    """Recorded: 512 points of 64 against themselves."""

    def run() -> None:
        x = torch.randn(512, 64, device="cuda")
        torch.cdist(x, x)

    trace = allocations(run)
    assert not trace.unknown_ops
    assert [size for size in sizes(trace, "_euclidean_dist") if size < 2**24] == [
        131_072, 2_048, 2_048, 131_072, 2_048, 2_048, 131_072, 135_168, 135_168, 1_048_576,
    ]  # fmt: skip


def test_upsampling_is_one_kernel() -> None:
    def run() -> None:
        x = torch.randn(2, 8, 16, 16, device="cuda", requires_grad=True)
        y = F.interpolate(x, scale_factor=2)
        torch.cat([y, torch.randn_like(y)], 1).sum().backward()

    trace = allocations(run)
    assert sizes(trace, "upsample_nearest2d") == [2 * 8 * 32 * 32 * 4]
    # the gradient is half of the concatenation's: the result, then a contiguous copy of what it reads
    assert sizes(trace, "upsample_nearest2d_backward") == [2 * 8 * 16 * 16 * 4, 2 * 8 * 32 * 32 * 4]
    assert not trace.unknown_ops


def test_nobody_is_told_that_tensors_are_fake() -> None:
    """transformers' `is_tracing` asks this, and then builds masks that a real run skips."""
    before = torch._subclasses.FakeTensor
    with memgraph.virtual_gpu("h200"):
        assert not isinstance(torch.ones(2, device="cuda"), torch._subclasses.FakeTensor)
    assert torch._subclasses.FakeTensor is before


def test_ones_like_unknown_tensors_are_known() -> None:
    with memgraph.virtual_gpu("h200") as gpu:
        tokens = torch.randint(0, 100, (4, 8), device="cuda")
        assert torch.ones_like(tokens).all()
        assert not torch.zeros_like(tokens).any()
        assert tokens.new_full((3,), 7).tolist() == [7, 7, 7]
    assert not gpu.trace.assumptions


def test_a_freed_scalar_frees_its_whole_storage() -> None:
    with memgraph.virtual_gpu("h200") as gpu:
        a = torch.randn(1000, 64, device="cuda")
        loss = F.mse_loss(a, a)
        before = gpu.ledger.allocator.requested
        del loss
        assert before - gpu.ledger.allocator.requested == 256_000
    assert [e.action for e in gpu.trace.events][-1] is Action.FREE


def test_ops_that_are_others_on_a_card_are_torchs_own_on_the_host() -> None:
    """`Distribution` checks its parameters by `torch._is_all_true`, which has no composite kernel to go to."""
    with memgraph.virtual_gpu("rtx3090") as gpu:
        assert bool(torch._is_all_true(torch.ones(2, dtype=torch.bool)))
        assert not bool(torch._is_all_true(torch.zeros(2, dtype=torch.bool)))
        assert torch.distributions.Beta(torch.tensor([1.0]), torch.tensor([1.0])).sample().shape == (1,)
        with torch.no_grad():
            embedded = nn.functional.embedding_bag(torch.tensor([[0, 1]]), torch.ones(2, 3))
        assert torch.equal(embedded, torch.ones(1, 3))
    assert not gpu.trace.buffers


def test_one_hot_scatters_ones_into_zeros() -> None:
    """Recorded on an H200: where the classes are not given their number is read, then 6 · 8 bytes and nothing else."""
    with memgraph.virtual_gpu("h200") as gpu:
        labels = torch.tensor([3, 5], device="cuda")
        known, given = torch.nn.functional.one_hot(labels), torch.nn.functional.one_hot(labels, 8)
        assert known.tolist() == [[0, 0, 0, 1, 0, 0], [0, 0, 0, 0, 0, 1]]
        assert given.argmax(1).tolist() == [3, 5]
        assert torch.nn.functional.one_hot(labels[:0], 8).shape == (0, 8)
    assert [buffer.size for buffer in gpu.trace.buffers[1:4]] == [8, 2 * 6 * 8, 2 * 8 * 8]


def test_whether_all_are_close_takes_what_it_compares_with() -> None:
    """As TensorCompare.cpp: of 1,000 floats the flags of equality (1,000 bytes), the error allowed and the actual one
    (4,000 each), which of those are finite and which small enough, and the answer."""
    with memgraph.virtual_gpu("h200") as gpu:
        x, y = (torch.zeros(1000, device="cuda") for _ in range(2))
        assert not torch.allclose(x * 1.5, y.cos())
        torch._is_any_true(x > 0)
        trace = gpu.trace
    assert not trace.unknown_ops
    names = [op.name for op in trace.ops]
    assert "aten.allclose.default" not in names and "aten.any.default" in names
    assert sum(buffer.size == 4000 for buffer in trace.buffers) >= 2 + 2 + 2


_PLACES = torch.tensor([[0, 2, 1]])
IN_ZEROS: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "gather": lambda x: x.gather(0, _PLACES.cuda()),
    "index_select": lambda x: x.index_select(0, _PLACES[0].cuda()),
    "masked_select": lambda x: x.masked_select(torch.ones(3, 3, dtype=torch.bool, device="cuda")),
    "trace": lambda x: x.trace(),
    "cummax": lambda x: x.cummax(0)[0],
    "take": lambda x: x.take(_PLACES.cuda()),
}


def gradient_of(function: Callable[[torch.Tensor], torch.Tensor], *shape: int) -> list[int]:
    """Bytes of all that the gradient of a function takes, one after the other, but for the ones it begins with."""
    with memgraph.virtual_gpu("h200") as gpu:
        source = torch.rand(shape, device="cuda", requires_grad=True)
        result = function(source)
        gradient = torch.ones_like(result)
        torch.autograd.grad(result, source, gradient)
    ones = max(index for index, op in enumerate(gpu.trace.ops) if op.name == "aten.ones_like.default")
    return [buffer.size for buffer in gpu.trace.buffers if buffer.op > ones]


@pytest.mark.parametrize("name", IN_ZEROS)
def test_a_gradient_is_written_into_its_zeros(name: str) -> None:
    """One buffer of 9 floats, as recorded on an H200 for each; torch makes two where it is under a dispatch mode."""
    assert gradient_of(IN_ZEROS[name], 3, 3).count(36) == 1


def test_the_gradient_of_a_running_product_without_zeros_is_a_running_sum() -> None:
    """Recorded on an H200 of 5 x 5 x 5 floats: the weighted gradient, flags of zeros, whether any, a sum from the end
    in three steps, and the quotient."""
    assert gradient_of(lambda x: x.cumprod(1), 5, 5, 5) == [500, 125, 1, 500, 500, 500, 500]


def test_the_gradient_of_a_cross_entropy_of_logits_is_worked_out_in_the_sigmoid() -> None:
    """Recorded on an H200 of 5 x 5, with its mean's gradient: one buffer where three were asked for."""
    assert gradient_of(lambda x: F.binary_cross_entropy_with_logits(x, torch.zeros_like(x)), 5, 5) == [100]


def test_the_gradient_of_the_largest_element_is_masked_in_place() -> None:
    """Recorded on an H200 of 5 x 5 x 5: flags of what is no number, of the largest, of both, then their count (as
    int64) and what falls to each."""
    assert gradient_of(lambda x: x.max(), 5, 5, 5) == [125, 1, 125, 8, 1000, 4, 500]


SAME_WAY: dict[str, tuple[Callable[[torch.Tensor], torch.Tensor], list[int]]] = {
    "a square": (lambda y: y * y, [100, 100]),
    "a cube": (lambda y: y * y * y, [100, 100, 100, 100]),
    "an angle": (lambda y: torch.atan2(y, y), [100, 100, 100, 25, 100, 100, 100, 100, 100]),
}


@pytest.mark.parametrize("name", SAME_WAY)
def test_two_gradients_of_one_node_that_go_the_same_way_meet_in_place(name: str) -> None:
    """Of 5 x 5 floats: what the formula makes, and no sum of it. Recorded on an H200 with `masked.var`, local response
    normalisation and `atan2`."""
    function, made = SAME_WAY[name]
    assert gradient_of(lambda x: function(x + 1), 5, 5) == made


def test_halves_of_one_gradient_do_not() -> None:
    """Both are views of what the node was given, which nobody may write to."""
    assert gradient_of(lambda x: torch.cat([x + 0] * 2), 5, 5) == [100]


def test_attention_of_other_ops_adds_its_mask_to_the_scores() -> None:
    """Recorded on an H200: the scores, then their softmax, and none between. Here in float64, which no fused kernel
    takes: 2 · 4 · 128 · 128 scores of 8 bytes."""

    def run() -> None:
        query = torch.rand(2, 4, 128, 64, device="cuda", dtype=torch.float64)
        F.scaled_dot_product_attention(query, query, query, attn_mask=query.new_zeros(128, 128))

    trace = allocations(run)
    assert [op.name for op in trace.ops].count("aten.add_.Tensor") == 1
    assert [buffer.size for buffer in trace.buffers].count(1_048_576) == 2
    assert not sizes(trace, "add")
