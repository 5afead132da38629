"""Recurrent layers: through cuDNN on the virtual GPU, against recorded H200 calls and by hand."""

from __future__ import annotations

import gzip
import json
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

import memgraph
from memgraph.gpu.recurrent import GRU, LSTM, TANH, Layers, dropout_state_bytes, reserve_bytes, takes_small_algorithm
from memgraph.trace import Action, Trace
from tests import DATA

RECORDED: dict[str, list[int]] = json.loads(gzip.decompress((DATA / "ops_h200_layers.json.gz").read_bytes()))["cases"]
"""Requested bytes of each allocation (positive) and free of one call, as `benchmarks/accuracy/ops/layers.py` has."""

CASES = {
    "small": (64, 128, 1, 16, 50, False, torch.float32), "deep": (128, 256, 2, 32, 100, False, torch.float32),
    "bi": (128, 256, 2, 32, 100, True, torch.float32), "bf16": (128, 256, 2, 32, 100, False, torch.bfloat16),
    "odd": (37, 61, 3, 5, 17, False, torch.float32), "wide": (512, 1024, 1, 64, 35, False, torch.float32),
}  # fmt: skip
"""Inputs, hidden size, layers, sequences, steps, both directions?, type."""
TO_A_KILOBYTE = {("LSTM", name) for name in ("deep", "bi", "bf16", "wide")} | {
    ("GRU", "deep"),
    ("GRU", "bi"),
    ("GRU", "bf16"),
    ("GRU", "wide"),
    ("RNN", "wide"),
}
"""Cases of cuDNN's standard algorithm; the workspace of the one for small hidden sizes is an estimate."""


def moves(trace: Trace, start: int) -> list[int]:
    """Requested bytes of the allocations (positive) and frees (negative) from event `start` on."""
    signs = {Action.ALLOC: 1, Action.FREE: -1}
    return [signs[e.action] * trace.buffers[e.buffer].size for e in list(trace.events)[start:] if e.action in signs]


def predicted(kind: str, case: str, *, backward: bool) -> list[int]:
    inputs, hidden, layers, batch, steps, both, dtype = CASES[case]
    with memgraph.virtual_gpu("h200") as gpu:
        module = getattr(nn, kind)(inputs, hidden, layers, bidirectional=both, batch_first=True, dtype=dtype).cuda()
        x = torch.randn(batch, steps, inputs, device="cuda", dtype=dtype, requires_grad=True)
        output = module(x)[0]
        gradient = torch.randn_like(output)
        start = len(gpu.ledger)
        if backward:
            wanted = [*module.parameters(), x]
            _kept: Any = torch.autograd.grad(output, wanted, gradient, retain_graph=True)
        else:
            _kept = module(x)
        return moves(gpu.trace, start)


def assert_same(kind: str, case: str, found: list[int], recorded: list[int]) -> None:
    """The same order, and the same bytes but for cuDNN's workspace."""
    workspace = min(size for size in RECORDED[f"{kind} {case} forward"] if size < 0)
    if (kind, case) in TO_A_KILOBYTE:
        assert found == [pytest.approx(size, abs=1024) if -abs(size) == workspace else size for size in recorded]
    else:
        others = [size for size in recorded if -abs(size) != workspace]
        guess = min(size for size in predicted(kind, case, backward=False) if size < 0)
        assert [size for size in found if -abs(size) != guess] == others
        assert guess == pytest.approx(workspace, rel=0.1)


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("kind", ["LSTM", "GRU", "RNN"])
def test_a_forward_allocates_as_recorded(kind: str, case: str) -> None:
    found, recorded = predicted(kind, case, backward=False), list(RECORDED[f"{kind} {case} forward"])
    assert_same(kind, case, found, recorded)


@pytest.mark.parametrize("case", ["deep", "bi", "odd", "wide"])
@pytest.mark.parametrize("kind", ["LSTM", "GRU", "RNN"])
def test_a_backward_allocates_as_recorded(kind: str, case: str) -> None:
    recorded = list(RECORDED[f"{kind} {case} backward"])
    found = predicted(kind, case, backward=True)
    assert sum(found) == pytest.approx(sum(recorded), abs=0)
    assert_same(kind, case, found, recorded)


def test_reserves() -> None:
    # 5 values an element of an LSTM, 6 of a GRU, 1 of a plain RNN; outputs between layers; up to 64 bytes; 256 more.
    one = Layers(LSTM, 64, 128, 0, 1, 1, 50, 16, 4)
    assert reserve_bytes(one, 0.0) == 5 * 50 * 16 * 128 * 4 + 256 == 2_048_256
    both = Layers(GRU, 128, 256, 0, 2, 2, 100, 32, 4)
    assert reserve_bytes(both, 0.0) == (6 * 2 + 1) * 100 * 32 * 256 * 2 * 4 + 256 == 85_197_056
    odd = Layers(TANH, 37, 61, 0, 3, 1, 17, 5, 4)
    assert reserve_bytes(odd, 0.0) == 103_744 + 256  # (1 * 3 + 2) * 17 * 5 * 61 * 4 = 103,700
    # Dropout keeps a bit for each of 35 * 40 * 650 = 910,000 elements between the two layers: 113,750 bytes, up to 32.
    dropped = Layers(LSTM, 650, 650, 0, 2, 1, 35, 40, 4)
    assert reserve_bytes(dropped, 0.5) == 11 * 910_000 * 4 + 113_760 + 256 == 40_154_016


def test_the_dropout_state_is_as_large_as_the_card() -> None:
    assert dropout_state_bytes(132, 2048) == 6_488_064


def test_algorithms() -> None:
    assert takes_small_algorithm(LSTM, 192, forward=True)
    assert not takes_small_algorithm(LSTM, 192, forward=False)
    assert takes_small_algorithm(TANH, 384, forward=True)
    assert not takes_small_algorithm(GRU, 193, forward=True)


def test_weights_lie_in_one_buffer() -> None:
    with memgraph.virtual_gpu("h200") as gpu:
        module = nn.LSTM(650, 650, 2).cuda()
        # 2 layers of 2 matrices of 4 * 650 x 650 and 2 biases of 4 * 650: (6,760,000 + 6,500 ... ) floats
        assert gpu.ledger.allocator.requested == (2 * 2 * 2600 * 650 + 2 * 2 * 2600) * 4 == 27_081_600
        assert len({p.untyped_storage()._cdata for p in module.parameters()}) == 1
        assert all(isinstance(p, nn.Parameter) and p.is_leaf for p in module.parameters())
        module.cuda()  # already there: nothing moves, and nothing stays behind
        assert gpu.ledger.allocator.requested <= 2 * 27_081_600


def test_weights_that_are_not_flat_are_copied_at_each_call() -> None:
    """bf16 modules are never flattened (torch/backends/cudnn), so the call returns a buffer of its own."""
    found = predicted("LSTM", "bf16", backward=False)
    assert 1_843_200 in found
    assert 1_843_200 not in predicted("LSTM", "deep", backward=False)


def test_dropout_between_layers_takes_a_state_once() -> None:
    with memgraph.virtual_gpu("h200") as gpu:
        module, x = nn.LSTM(8, 8, 2, dropout=0.5).cuda(), torch.randn(3, 2, 8, device="cuda")
        module(x)
        module(x)
    assert moves(gpu.trace, 0).count(6_488_064) == 1


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_autocast_casts_and_flattens_the_weights(dtype: torch.dtype) -> None:
    with memgraph.virtual_gpu("h200"):
        module = nn.LSTM(16, 32, 2, batch_first=True).cuda()
        with torch.autocast("cuda", dtype):
            y, (h, c) = module(torch.randn(3, 4, 16, device="cuda"))
        assert (y.dtype, h.dtype, c.dtype) == (dtype, dtype, dtype)
        y.float().sum().backward()
        assert all(p.grad is not None and p.grad.dtype is torch.float32 for p in module.parameters())


def test_packed_sequences() -> None:
    with memgraph.virtual_gpu("h200"):
        module = nn.GRU(16, 32, 2, bidirectional=True).cuda()
        x = torch.randn(5, 3, 16, device="cuda", requires_grad=True)
        packed = pack_padded_sequence(x, torch.tensor([2, 5, 1]), enforce_sorted=False)
        assert packed.data.shape == (2 + 5 + 1, 16)
        assert packed.batch_sizes.tolist() == [3, 2, 1, 1, 1]
        y, lengths = pad_packed_sequence(module(packed)[0])
        assert (y.shape, lengths.tolist()) == ((5, 3, 64), [2, 5, 1])
        y.sum().backward()
        assert x.grad is not None


def test_packing_unknown_lengths_is_assumed_and_said() -> None:
    with memgraph.virtual_gpu("h200") as gpu:
        lengths = (torch.rand(3, device="cuda") * 4).ceil().to(torch.int64).cpu()
        packed = pack_padded_sequence(torch.randn(5, 3, 16, device="cuda"), lengths, enforce_sorted=False)
        assert packed.data.shape == (15, 16)
    assert any("lengths" in text for text in gpu.trace.assumptions)


def test_projections_and_layers_without_biases() -> None:
    with memgraph.virtual_gpu("h200"):
        for options in ({"proj_size": 8, "bidirectional": True}, {"proj_size": 8, "bias": False}, {"bias": False}):
            module = nn.LSTM(16, 32, 2, **options).cuda()  # type: ignore[arg-type]
            y, _ = module(torch.randn(5, 7, 16, device="cuda"))
            y.sum().backward()
            assert all(p.grad is not None and p.grad.shape == p.shape for p in module.parameters())


@pytest.mark.parametrize("context", [torch.no_grad, torch.inference_mode])
def test_evaluation_takes_cudnn_too(context: Any) -> None:
    with memgraph.virtual_gpu("h200") as gpu:
        module = nn.LSTM(16, 32).cuda().eval()
        with context():
            module(torch.randn(5, 7, 16, device="cuda"))
    assert "aten._cudnn_rnn.default" in [op.name for op in gpu.trace.ops]


def test_inference_mode_chooses_the_gpus_attention() -> None:
    with memgraph.virtual_gpu("h200") as gpu, torch.inference_mode():
        q = torch.randn(2, 4, 128, 64, device="cuda", dtype=torch.bfloat16)
        nn.functional.scaled_dot_product_attention(q, q, q)
    assert "aten._scaled_dot_product_cudnn_attention.default" in [op.name for op in gpu.trace.ops]


def test_cells() -> None:
    with memgraph.virtual_gpu("h200") as gpu:
        for kind in (nn.LSTMCell, nn.GRUCell, nn.RNNCell):
            cell, state = kind(16, 32).cuda(), None
            for _ in range(3):
                state = cell(torch.randn(4, 16, device="cuda"), state)
            (state[0] if isinstance(state, tuple) else state).sum().backward()  # type: ignore[union-attr]
            assert all(p.grad is not None for p in cell.parameters())
    assert not gpu.trace.unknown_ops


def test_without_cudnn_it_is_a_loop_of_small_ops() -> None:
    with memgraph.virtual_gpu("h200") as gpu, torch.backends.cudnn.flags(enabled=False):
        y, _ = nn.GRU(16, 32, 2).cuda()(torch.randn(5, 7, 16, device="cuda"))
        y.sum().backward()
    assert "aten._cudnn_rnn.default" not in [op.name for op in gpu.trace.ops]


def test_real_layers_are_untouched() -> None:
    def result() -> Tensor:
        torch.manual_seed(0)
        y, _ = nn.LSTM(4, 8)(torch.ones(3, 2, 4))
        return y  # type: ignore[no-any-return]

    before = result()
    with memgraph.virtual_gpu("h200"), torch.inference_mode():
        assert torch.allclose(result(), before)  # another kernel in inference mode
    assert torch.allclose(result(), before)  # another kernel in inference mode


def test_a_bias_is_added_in_place_where_it_cannot_be_fused() -> None:
    """A real `linear` adds it in place; one buffer of 3 * 2 * 6 floats, not two."""
    with memgraph.virtual_gpu("h200") as gpu:
        linear, x = nn.Linear(5, 6).cuda(), torch.randn(3, 2, 5, device="cuda").transpose(0, 1)
        start = len(gpu.ledger)
        linear(x)
        assert moves(gpu.trace, start).count(3 * 2 * 6 * 4) == 1
