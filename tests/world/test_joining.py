"""A script that makes a group of its one process, without `--world`: a world of one."""

from __future__ import annotations

import os

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
