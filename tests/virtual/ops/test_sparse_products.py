"""Matrices in coordinates on the device: what a graph network's products with its adjacency take.

The sizes are those of `torch.cuda.memory._record_memory_history` on an H200 with torch 2.11, for matrices of the same
shape; what cuSPARSE takes is 4 bytes for each 256 entries, and 7.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

import memgraph
from memgraph.errors import MemgraphError
from memgraph.trace import Action, Trace

ROWS, COLUMNS, ENTRIES, WIDTH = 1000, 700, 4979, 64


def adjacency() -> Tensor:
    """4,979 entries that differ, in order."""
    place = torch.arange(ENTRIES) * 140
    indices = torch.stack([place // COLUMNS, place % COLUMNS])
    return torch.sparse_coo_tensor(indices, torch.ones(ENTRIES), (ROWS, COLUMNS), is_coalesced=True)


def sizes(trace: Trace, first: int) -> list[int]:
    """What is allocated from an event on, and (negative) given back."""
    signs = {Action.ALLOC: 1, Action.FREE: -1}
    return [signs[event.action] * trace.buffers[event.buffer].size for event in list(trace.events)[first:]
            if event.action in signs]  # fmt: skip


INDICES, VALUES = 2 * ENTRIES * 8, ENTRIES * 4
FLAT, NARROW, WORKSPACE = ENTRIES * 8, ENTRIES * 4, 4 * 20 + 7  # 4,979 / 256 → 20
OUT, ROW_STARTS, COLUMN_STARTS, GRADIENT = ROWS * WIDTH * 4, (ROWS + 1) * 4, (COLUMNS + 1) * 4, COLUMNS * WIDTH * 4
PRODUCT = [ROW_STARTS, NARROW, -NARROW, NARROW, OUT, WORKSPACE, -WORKSPACE, -OUT, -NARROW, -ROW_STARTS]


def test_a_product_with_a_dense_matrix_and_its_gradient() -> None:
    """Forward: zeros, the result, and inside rows compressed, indices of 32 bits and the result by columns. Backward:
    the transposed matrix is a copy that is sorted anew, as nobody knows that it is coalesced."""
    with memgraph.virtual_gpu("h200", torch="2.11") as gpu:
        matrix, dense = adjacency().cuda(), torch.rand(COLUMNS, WIDTH, device="cuda", requires_grad=True)
        gradient = torch.rand(ROWS, WIDTH, device="cuda")
        first = len(gpu.trace.events)
        torch.sparse.mm(matrix, dense).backward(gradient)
        seen = sizes(gpu.trace, first)
    assert seen[:13] == [OUT, OUT, *PRODUCT, -OUT]
    assert seen[13:23] == [VALUES, INDICES, FLAT, -FLAT, GRADIENT, GRADIENT, FLAT, FLAT, FLAT, 80383]
    assert seen[26:28] == [VALUES, INDICES]
    assert seen[31:38] == [COLUMN_STARTS, NARROW, -NARROW, NARROW, GRADIENT, WORKSPACE, -WORKSPACE]
    assert gpu.trace.unknown_ops == ()


def test_what_comes_from_the_host_keeps_its_entries() -> None:
    with memgraph.virtual_gpu("h200") as gpu:
        matrix = adjacency().cuda()
        assert matrix._nnz() == ENTRIES and matrix.is_coalesced() and matrix.indices().shape == (2, ENTRIES)
        assert sizes(gpu.trace, 0) == [INDICES, VALUES]


def added(matrix: Tensor) -> Tensor:
    return torch.sparse.addmm(torch.ones(ROWS, 4, device="cuda"), matrix, torch.ones(COLUMNS, 4, device="cuda"))


@pytest.mark.parametrize(
    ("what", "takes"),
    [
        (lambda matrix: matrix * 2, [INDICES, VALUES]),
        (lambda matrix: matrix.to_dense(), [ROWS * COLUMNS * 4]),
        (lambda matrix: matrix.t(), [VALUES, INDICES, FLAT, -FLAT]),
        (lambda matrix: torch.mv(matrix, torch.ones(COLUMNS, device="cuda"))[:0], None),
        (lambda matrix: torch.ones(3, ROWS, device="cuda") @ matrix, None),
        (added, None),
    ],
    ids=["times a number", "dense", "transposed", "a vector", "from the left", "added"],
)  # fmt: skip
def test_other_ops(what: Callable[[Tensor], Tensor], takes: list[int] | None) -> None:
    with memgraph.virtual_gpu("h200", torch="2.11") as gpu:
        matrix = adjacency().cuda()
        first = len(gpu.trace.events)
        result = what(matrix)
        seen = sizes(gpu.trace, first)
        del result
    assert gpu.trace.unknown_ops == () and (takes is None or seen[: len(takes)] == takes)
    gpu.trace.self_check()


def test_an_op_that_is_not_followed_is_named_with_its_line() -> None:
    """Without a kernel of ours FakeTensor would run the card's."""
    line = r"_to_sparse_csr.* at .*test_sparse_products"
    with memgraph.virtual_gpu("h200"), pytest.raises(MemgraphError, match=line):
        adjacency().cuda().to_sparse_csr()


@pytest.mark.parametrize(
    ("rows", "dtype", "message"),
    [
        (COLUMNS + 1, torch.float32, "Expected dim 0 size 700, got 701"),
        (COLUMNS, torch.float16, "\"addmm_sparse_cuda\" not implemented for 'Half'"),
    ],
)
def test_a_product_that_the_card_refuses_is_refused(rows: int, dtype: torch.dtype, message: str) -> None:
    with memgraph.virtual_gpu("h200"), pytest.raises((RuntimeError, NotImplementedError), match=message):
        torch.sparse.mm(adjacency().cuda().to(dtype), torch.ones(rows, 2, device="cuda", dtype=dtype))
