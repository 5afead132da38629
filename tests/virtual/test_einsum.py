"""`torch.einsum` of three tensors: its order is that of opt_einsum, or from left to right where it is not installed."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from torch.backends import opt_einsum

import memgraph


@pytest.mark.parametrize(
    ("path", "said", "saved"),
    [
        (None, "from left to right, for opt_einsum is not installed here", 4 * 16 * 32 * 8 * 4),
        ([(0, 2), (0, 1)], "in the order of opt_einsum, which is installed here", 4 * 16 * 32 * 4),
    ],
)
def test_the_order_of_three_factors_is_said(
    path: object, said: str, saved: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Mamba's selective scan, [4, 16, 32] x [4, 16, 8] x [4, 16, 32]: what the second product reads is of all four
    dimensions where the first two are multiplied first, of three where the first and the last are."""
    there = SimpleNamespace(contract_path=lambda *_, **__: (path,))
    monkeypatch.setattr(opt_einsum, "enabled", path is not None)
    monkeypatch.setattr(opt_einsum, "is_available", lambda: path is not None)
    monkeypatch.setattr(opt_einsum, "get_opt_einsum", lambda: there)
    with memgraph.virtual_gpu("t4") as gpu:
        delta, u = (torch.rand(4, 16, 32, device="cuda", requires_grad=True) for _ in range(2))
        b = torch.rand(4, 16, 8, device="cuda", requires_grad=True)
        y = torch.einsum("bld,bln,bld->bldn", delta, b, u)
        z = torch.einsum("bldn,bln->bld", y, b)
    assert z.shape == (4, 16, 32)
    [text] = [text for text in gpu.trace.assumptions if "torch.einsum" in text]
    assert said in text and "test_einsum.py" in text
    made = [buffer.size for buffer in gpu.trace.buffers if gpu.trace.ops[buffer.op].name == "aten.mul.Tensor"]
    assert made[0] == saved


def test_two_factors_and_an_order_that_is_left_off_say_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(opt_einsum, "enabled", False)
    monkeypatch.setattr(opt_einsum, "is_available", lambda: True)
    with memgraph.virtual_gpu("t4") as gpu:
        x = torch.rand(4, 4, device="cuda")
        torch.einsum("ij,jk,kl->il", x, x, x)
        monkeypatch.setattr(opt_einsum, "is_available", lambda: False)
        torch.einsum("ij,jk->ik", x, x)
    assert not [text for text in gpu.trace.assumptions if "einsum" in text]
