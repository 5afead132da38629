"""Which ops make the host wait for the stream they run on: as found on an H200 with torch 2.11, where a block that a
busy stream used came back after the op, or did not."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

import memgraph

MIB = 2**20
WAITED: dict[str, tuple[Callable[[Tensor], object], bool]] = {
    "equal": (lambda x: torch.equal(x, x.clone()), True),
    "nonzero": (lambda x: x.nonzero(), True),
    "a mask": (lambda x: x[x > 0], True),
    "index_put with a mask": (lambda x: x.clone().index_put_((x > 0,), x.new_zeros(())), True),
    "masked_fill": (lambda x: x.masked_fill(x > 0, 1.0), False),
    "unique": (lambda x: x.unique(), True),
    "unique_consecutive": (lambda x: x.unique_consecutive(), True),
    "bincount": (lambda x: x.long().bincount(), True),
    "histc": (lambda x: x.histc(10), True),
    "histc with a range": (lambda x: x.histc(10, 0, 1), False),
    "multinomial": (lambda x: x.multinomial(3), False),
    "sort": (lambda x: x.sort(), False),
    "topk": (lambda x: x.topk(3), False),
    "to cpu": (lambda x: x.cpu(), True),
    "to cpu, non_blocking": (lambda x: x.to("cpu", non_blocking=True), False),
    "to cuda": (lambda _: torch.ones(100).cuda(), True),
    "to cuda, pinned, non_blocking": (lambda _: torch.ones(100).pin_memory().to("cuda", non_blocking=True), False),
    "inverse": (lambda _: torch.linalg.inv(torch.eye(10, device="cuda")), True),
}


@pytest.mark.parametrize("name", WAITED)
def test_the_host_waits_as_on_the_card(name: str) -> None:
    read, waits = WAITED[name]
    with memgraph.virtual_gpu("h200"):
        side = torch.cuda.Stream()
        with torch.cuda.stream(side):
            x = torch.rand(100, device="cuda") + 1
        a = torch.empty(16 * MIB, dtype=torch.uint8, device="cuda")
        a.record_stream(side)
        del a
        with torch.cuda.stream(side):
            read(x)
        torch.empty(1, device="cuda")  # the allocator asks for what came back
        stats = torch.cuda.memory_stats()
    kept = stats["active_bytes.all.current"] - stats["allocated_bytes.all.current"]
    assert (kept < 16 * MIB) is waits
