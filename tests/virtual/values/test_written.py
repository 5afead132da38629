"""Values that were known are not any more once something unknown is written over them, by whatever road."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

import memgraph


def on_card(*shape: int) -> Tensor:
    return torch.randn(shape, device="cuda")


def both(norm: Callable[[Tensor, Tensor], object]) -> Callable[[Tensor], object]:
    """Of a mean; the variance beside it is of no interest."""
    return lambda mean: norm(mean, torch.ones_like(mean))


def kernel(table: Tensor) -> None:
    """Of Triton's."""


def launched(table: Tensor) -> None:
    pytest.importorskip("triton").jit(kernel)[(1,)](table)


WRITES: dict[str, Callable[[Tensor], object]] = {
    "the op": lambda table: table.normal_(),
    "a view": lambda table: table[2:4].normal_(),
    "a view of more dimensions": lambda table: table.view(2, 4).normal_(),
    "a part of such a view": lambda table: table.view(2, 4)[1].normal_(),
    "its data": lambda table: table.data.normal_(),
    "a part is set": lambda table: table.__setitem__(slice(2, 4), on_card(2)),
    "foreach": lambda table: torch._foreach_add_([table], [on_card(8)]),
    "out=": lambda table: torch.add(on_card(8), 1, out=table),
    "cuDNN's batch norm": both(lambda mean, var: F.batch_norm(on_card(4, 8, 5), mean, var, *[on_card(8)] * 2, True)),
    "torch's batch norm": both(lambda mean, var: F.batch_norm(on_card(4, 8), mean, var, training=True)),
    "instance norm": both(lambda mean, var: F.instance_norm(on_card(4, 8, 5), mean, var)),
    "its storage": lambda table: table.untyped_storage().copy_(on_card(8).untyped_storage()),
    "bytes of its storage": lambda table: table.untyped_storage().fill_(1),
    "a kernel of Triton's": launched,
}


@pytest.mark.parametrize("write", WRITES.values(), ids=list(WRITES))
def test_what_is_written_over_is_not_known_any_more(write: Callable[[Tensor], object]) -> None:
    with memgraph.virtual_gpu("h200") as gpu:
        table = torch.zeros(8, device="cuda")
        assert bool((table == 0).all())
        assert gpu.assumptions.stated == ()
        write(table)
        bool((table == 0).all())
    assert any("a condition on unknown values" in text for text in gpu.trace.assumptions)


@pytest.mark.parametrize("shape", [(2, 4), (8,), (4, 2, 1)])
def test_what_is_written_into_a_view_is_seen_by_all(shape: tuple[int, ...]) -> None:
    with memgraph.virtual_gpu("h200") as gpu:
        table = torch.zeros(8, device="cuda")
        table.view(shape)[-1:] += 1
        assert float(table.sum()) == 8 / shape[0]
    assert gpu.trace.assumptions == ()
