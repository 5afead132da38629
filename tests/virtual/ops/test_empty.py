"""Where there is nothing: no samples, no steps, no heads, nothing selected. As on a CPU."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import memgraph


def known(*values: Any) -> Tensor:
    """A tensor on the device whose values are known."""
    return torch.tensor(values).to(DEVICE)


DEVICE = "cuda"


def lossy(loss: Callable[..., Tensor]) -> Callable[[], Tensor]:
    def gradient() -> Tensor:
        source = torch.randn(0, 3, device=DEVICE, requires_grad=True)
        loss(source.sigmoid(), torch.zeros(0, 3, device=DEVICE)).backward()
        assert source.grad is not None
        return source.grad

    return gradient


def attention(*shape: int) -> Callable[[], Tensor]:
    def gradient() -> Tensor:
        query = torch.randn(shape, device=DEVICE, dtype=torch.bfloat16, requires_grad=True)
        F.scaled_dot_product_attention(query, query, query).sum().backward()
        assert query.grad is not None
        return query.grad

    return gradient


def encoder(*shape: int) -> Callable[[], Tensor]:
    def result() -> Tensor:
        layer = nn.TransformerEncoderLayer(8, 2, 8, batch_first=True, device=DEVICE).eval()
        with torch.no_grad():
            return layer(torch.randn(*shape, 8, device=DEVICE))

    return result


EMPTY = {
    "masked_select": (lambda: torch.ones(4, device=DEVICE).masked_select(known(False, False, False, False)), (0,)),
    "index": (lambda: torch.ones(4, device=DEVICE)[known(False, False, False, False)], (0,)),
    "masked_scatter": (
        lambda: torch.ones(0, device=DEVICE).masked_scatter(
            torch.zeros(0, dtype=torch.bool, device=DEVICE), torch.ones(3, device=DEVICE)
        ),
        (0,),
    ),
    "combinations": (lambda: torch.combinations(torch.ones(1, device=DEVICE), r=2), (0, 2)),
    "vector_norm of a number": (lambda: torch.linalg.vector_norm(torch.randn((), device=DEVICE)), ()),
    "vector_norm": (lambda: torch.linalg.vector_norm(torch.randn(0, 3, device=DEVICE), dim=1), (0,)),
    **{loss.__name__: (lossy(loss), (0, 3)) for loss in (F.mse_loss, F.smooth_l1_loss, F.huber_loss, F.l1_loss)},
    "no samples": (attention(0, 2, 3, 8), (0, 2, 3, 8)),
    "no heads": (attention(2, 0, 3, 8), (2, 0, 3, 8)),
    "no steps": (attention(2, 2, 0, 8), (2, 2, 0, 8)),
    "encoder without samples": (encoder(0, 3), (0, 3, 8)),
    "encoder without steps": (encoder(3, 0), (3, 0, 8)),
}


@pytest.mark.parametrize("card", ["h200", "rtx3090"])
@pytest.mark.parametrize("name", EMPTY)
def test_nothing_is_no_fault(name: str, card: str) -> None:
    call, shape = EMPTY[name]
    with memgraph.virtual_gpu(card) as gpu:
        result = call()
    assert tuple(result.shape) == shape
    assert gpu.trace.unknown_ops == ()


def test_none_of_four_selected_takes_what_nonzero_takes() -> None:
    """A count in 4 bytes with its scratch, and neither positions nor a result."""
    with memgraph.virtual_gpu("h200") as gpu:
        mask, source = known(False, False, False, False), torch.ones(4, device=DEVICE)
        before = len(gpu.ledger.sizes)
        source.masked_select(mask)
    assert all(size <= 1024 for size in gpu.ledger.sizes[before:])
