"""A script that makes a group of its one process, without `--world`: a world of one."""

from __future__ import annotations

import os
import sys

import pytest
import torch
import torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel

import memgraph
from memgraph.errors import UsageError


@pytest.mark.parametrize("backend", ["nccl", "gloo", None])
def test_ddp_over_one_process(backend: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29531", "RANK": "0", "WORLD_SIZE": "1"}.items():
        monkeypatch.setenv(name, value)
    with memgraph.virtual_gpu("h100") as gpu:
        assert dist.is_nccl_available()
        dist.init_process_group(backend)
        net = DistributedDataParallel(torch.nn.Linear(256, 256, bias=False).cuda())
        net(torch.randn(2, 256, device="cuda")).sum().backward()
        assert net.module.weight.grad is not None
        dist.destroy_process_group()
        dist.init_process_group(backend, world_size=1, rank=0)  # and again
        assert dist.get_world_size() == 1
    sizes = [buffer.size for buffer in gpu.trace.buffers]
    assert sizes.count(256 * 256 * 4) >= 3  # the weight, its gradient, and DDP's bucket
    assert not dist.is_initialized()
    assert os.environ["MASTER_PORT"] == "29531"


def test_a_group_of_several_says_what_to_add(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "4")
    with memgraph.virtual_gpu("h100"), pytest.raises(UsageError, match="add --world 4"):
        dist.init_process_group("nccl")


def _train(local_rank: int, node: int, seen: list[tuple[int, int]]) -> None:
    rank = node * torch.cuda.device_count() + local_rank
    dist.init_process_group(
        "nccl", init_method="tcp://localhost:29532", rank=rank, world_size=torch.cuda.device_count()
    )
    torch.ones(1024, device="cuda")
    seen.append((dist.get_rank(), dist.get_world_size()))
    sys.exit(0)


@pytest.mark.parametrize(("world", "rank"), [(None, 0), (4, 0), (4, 2)])
def test_of_processes_that_are_spawned_that_of_the_rank_is_run(world: int | None, rank: int) -> None:
    """SimSiam's and Barlow Twins' way: a process for each GPU that torch.cuda counts, each a rank. That one exits is no
    end of the script."""
    seen: list[tuple[int, int]] = []
    with memgraph.virtual_gpu("h100", world=world, rank=rank) as gpu:
        torch.multiprocessing.spawn(_train, args=(0, seen), nprocs=torch.cuda.device_count())
        seen.append((-1, -1))
    assert seen == [(rank, world or 1), (-1, -1)]
    assert 4096 in [buffer.size for buffer in gpu.trace.buffers]
    said = [text for text in gpu.trace.assumptions if f"of 4 processes that the script starts number {rank}" in text]
    assert len(said) == (1 if world else 0)
