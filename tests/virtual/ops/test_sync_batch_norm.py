"""SyncBatchNorm, whose ops have CUDA kernels alone."""

from __future__ import annotations

import torch
import torch.distributed as dist
from torch import nn

import memgraph
from memgraph.trace import Action


def test_statistics_are_one_number_a_channel_and_the_rest_is_like_the_input() -> None:
    """8 channels, in fp32: two statistics of 32 bytes, and 65 bytes of them with the count, from each of two ranks."""
    with memgraph.virtual_gpu("h100", world=2) as gpu:
        dist.init_process_group("nccl")
        norm = nn.SyncBatchNorm(8).cuda()
        x = torch.zeros(4, 8, 16, 16, device="cuda", dtype=torch.float32, requires_grad=True)
        norm(x).sum().backward()
        assert x.grad is not None and norm.weight.grad is not None
        assert x.grad.shape == x.shape and norm.weight.grad.shape == (8,)
    sizes = [gpu.trace.buffers[event.buffer].size for event in gpu.trace.events if event.action is Action.ALLOC]
    assert sizes.count(2 * (8 + 8 + 1) * 4) == 1  # gathered
    assert sizes.count(4 * 8 * 16 * 16 * 4) == 4  # input, output, the expanded gradient, gradient of the input
    assert not gpu.trace.unknown_ops
