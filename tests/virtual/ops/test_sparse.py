"""Sparse gradients, CTC loss and attention without a gradient: what lives, and for how long."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import memgraph
from memgraph.trace import Role, Trace
from tests.capture.watching import left, outputs_of


def made_by(trace: Trace, op: str) -> list[int]:
    return [trace.buffers[index].size for index in outputs_of(trace, op)]


def test_a_sparse_gradient_is_indices_and_values() -> None:
    """Six rows of 8 floats: 192 bytes, seen as a view of the gradient; the indices are the input's own. Dense it would
    be 1000 x 8 x 4 = 32,000."""
    with memgraph.virtual_gpu("h100") as gpu:
        table, ids = nn.Embedding(1000, 8, sparse=True).cuda(), torch.arange(6).view(2, 3).cuda()
        (table(ids) * 2).sum().backward()
        gradient = table.weight.grad
        assert gradient is not None and gradient.is_sparse and gradient.shape == (1000, 8)
    gpu.trace.self_check()
    assert left(gpu.trace) == ["_to_copy 32000", "_to_copy 48", "mul 192"]


def test_gradients_of_two_uses_come_one_after_the_other() -> None:
    """2 x 6 indices of 8 bytes, 12 rows of 32."""
    with memgraph.virtual_gpu("h100") as gpu:
        table, ids = nn.Embedding(1000, 8, sparse=True).cuda(), torch.arange(6).cuda()
        ((table(ids) * 2).sum() + (table(ids) * 3).sum()).backward()
        assert table.weight.grad is not None and table.weight.grad._nnz() == 12
    assert made_by(gpu.trace, "add") == [4, 96, 384]  # the loss, indices, values


@pytest.mark.parametrize("optimizer", [torch.optim.SparseAdam, torch.optim.Adagrad, lambda p: torch.optim.SGD(p, 0.1)])
def test_optimizers_take_them(optimizer: type[torch.optim.Optimizer]) -> None:
    with memgraph.virtual_gpu("h100") as gpu:
        table = nn.Embedding(1000, 8, sparse=True, padding_idx=0).cuda()
        own = optimizer(list(table.parameters()))
        for _ in range(2):
            for _ in range(2):
                table(torch.arange(6).cuda()).sum().backward()
            own.step()
            own.zero_grad()
    gpu.trace.self_check()
    assert gpu.trace.unknown_ops == ()
    assert not [name for name in left(gpu.trace) if "coalesce" in name]


def test_token_ids_from_the_cpu_say_how_many_rows_are_different() -> None:
    """100 uses of 50 rows: 50 indices of 8 bytes, 50 rows of 8 floats, whatever share `select` takes of the unknown."""
    with memgraph.virtual_gpu("h100", select=0.1) as gpu:
        table = nn.Embedding(1000, 8, sparse=True).cuda()
        (table((torch.arange(100) // 2).cuda()) * 2).sum().backward()
        assert table.weight.grad is not None
        assert table.weight.grad.coalesce()._nnz() == 50
    assert 50 * 8 * 4 in made_by(gpu.trace, "_coalesce")
    assert not any("sparse" in note for note in gpu.trace.assumptions)


def test_coalescing_sorts_and_keeps_what_is_different() -> None:
    """A second buffer of keys and of places while it sorts, and two ranges; the copied indices become the result's."""
    with memgraph.virtual_gpu("h100", select=0.5) as gpu:
        table = nn.Embedding(1000, 8, sparse=True).cuda()
        (table(torch.randint(0, 1000, (100,), device="cuda")) * 2).sum().backward()
        assert table.weight.grad is not None
        whole = table.weight.grad.coalesce()
        assert whole._nnz() == 50
    op = next(index for index, op in enumerate(gpu.trace.ops) if "_coalesce." in op.name)
    inside = [buffer.size for buffer in gpu.trace.buffers if buffer.op == op and buffer.role is Role.TEMPORARY]
    assert inside[:2] == [800, 800] and len(inside) == 4
    assert "50 of at most 100 rows of a sparse tensor are taken to be different" in gpu.trace.assumptions


def test_ctc_loss_keeps_a_table_of_steps_and_labels() -> None:
    """10 steps, labels of at most 4: 2 x 4 + 1 = 9 places; 2 samples: 2 x 10 x 9 x 4 = 720 bytes, and a loss each."""
    with memgraph.virtual_gpu("h100") as gpu:
        scores = torch.randn(10, 2, 5, device="cuda", requires_grad=True)
        labels = torch.ones(2, 6, dtype=torch.long, device="cuda")
        for lengths in (((10, 8), (4, 3)), (torch.tensor([10, 8]), torch.tensor([4, 3]))):
            F.ctc_loss(scores.log_softmax(-1), labels, *lengths, zero_infinity=True).backward()
    gpu.trace.self_check()
    assert made_by(gpu.trace, "_ctc_loss") == [720, 8] * 2
    assert made_by(gpu.trace, "_ctc_loss_backward") == [400] * 2
    assert (gpu.trace.unknown_ops, gpu.trace.assumptions) == ((), ())


def test_a_layer_without_a_gradient_is_its_parts() -> None:
    """Where the fast kernel takes it, one product for all of query, key and value: 2 x 5 x 48 floats."""
    with memgraph.virtual_gpu("h100") as gpu:
        layer = nn.TransformerEncoderLayer(16, 2, 32, batch_first=True).cuda().half().eval()
        with torch.no_grad():
            layer(torch.randn(2, 5, 16, device="cuda", dtype=torch.float16))
    names = [op.name.split(".")[1] for op in gpu.trace.ops]
    assert "_scaled_dot_product_flash_attention" in names or "_scaled_dot_product_cudnn_attention" in names
    assert made_by(gpu.trace, "addmm")[:2] == [2 * 5 * 48 * 2, 2 * 5 * 16 * 2]
    assert gpu.trace.unknown_ops == ()


def test_jagged_attention_takes_the_flash_kernel_over_all_rows() -> None:
    with memgraph.virtual_gpu("h100") as gpu:
        parts = [torch.randn(length, 2, 16) for length in (3, 5)]
        x = torch.nested.nested_tensor(
            parts, layout=torch.jagged, device="cuda", dtype=torch.bfloat16, requires_grad=True
        )
        q = x.transpose(1, 2)
        F.scaled_dot_product_attention(q, q, q, is_causal=True).transpose(1, 2).values().sum().backward()
    gpu.trace.self_check()
    assert made_by(gpu.trace, "_flash_attention_forward")[0] == 8 * 2 * 16 * 2  # all rows, heads, width, bytes
    assert gpu.trace.unknown_ops == ()


def test_a_dense_tensor_becomes_a_sparse_one_of_all_its_elements_or_of_those_that_are_known() -> None:
    """Recorded on an H200 of 300 x 40 ones: a count, its scratch, places in int64, a selection, then the indices and
    what is there, twice. Of an identity the entries are known: 5."""
    with memgraph.virtual_gpu("h200") as gpu:
        source = torch.rand(300, 40, device="cuda")
        sparse = source.to_sparse()
        counts = sparse._nnz(), torch.eye(5).cuda().to_sparse()._nnz(), sparse.is_coalesced()
    sizes = [buffer.size for buffer in gpu.trace.buffers]
    assert sizes[:8] == [48_000, 4, 21_503, 192_000, 1023, 192_000, 48_000, 48_000]
    assert counts == (12_000, 5, True)
    assert gpu.trace.assumptions == (
        "12,000 of at most 12,000 elements of a dense tensor that becomes a sparse one are taken to be other than 0",
    )


def test_the_gradient_of_a_dense_tensor_that_became_sparse_is_dense() -> None:
    with memgraph.virtual_gpu("h200"):
        source = torch.rand(30, 40, device="cuda", requires_grad=True)
        source.to_sparse().to_dense().sum().backward()
        assert source.grad is not None
        assert source.grad.shape == source.shape
