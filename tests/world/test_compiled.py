"""Modules in a world that are compiled: Dynamo cuts their graphs where DDP has its buckets."""

from __future__ import annotations

import gc
import importlib.util

import pytest
import torch
import torch.distributed as dist
from torch import nn

import memgraph

MIB = 2**20

if importlib.util.find_spec("triton") is None:
    pytest.skip("torch.compile for a GPU needs the triton package, which is not here", allow_module_level=True)


class Residual(nn.Module):
    """Three products of 4 MiB of numbers, each added to what it was given, which its norm saves."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList([nn.Linear(1024, 1024, bias=False) for _ in range(3)])
        self.norm = nn.RMSNorm(1024, elementwise_affine=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for layer in self.layers:
            x = x + layer(self.norm(x))
        return x


def test_a_module_that_is_gone_leaves_nothing_behind_in_its_compiled_parts() -> None:
    """With buckets of 1 MiB each layer is a part of its own. What stays is what cuBLAS works in, 32 MiB for each of the
    two threads that multiply."""
    with memgraph.virtual_gpu("h100", world=2):
        dist.init_process_group("nccl")
        module = Residual().cuda()
        wrapped = nn.parallel.DistributedDataParallel(torch.compile(module), bucket_cap_mb=1)
        wrapped(torch.ones(512, 1024, device="cuda")).sum().backward()
        del module, wrapped
        gc.collect()
        assert torch.cuda.memory_allocated() == 2 * 32 * MIB
