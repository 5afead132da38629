"""CUDA graphs and memory pools: what a capture allocates stays in a pool of its own, and a replay takes nothing."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import memgraph

MIB = 2**20


def figures() -> tuple[int, int]:
    return torch.cuda.memory_allocated() // MIB, torch.cuda.memory_reserved() // MIB


def ones(mib: int) -> torch.Tensor:
    return torch.ones(mib * MIB // 4, device="cuda")


def test_what_a_capture_allocates_is_in_a_pool_of_its_own() -> None:
    with memgraph.virtual_gpu("rtx3090") as gpu:
        x, cached = ones(16), ones(32)
        del cached
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):  # which empties the cache first
            y = (x + 1) * 2
        # the generator's state in a segment of 2 MiB; two results of 16 MiB, one of them free within the pool
        assert figures() == (16 + 16, 16 + 2 + 2 * 16)
        z = ones(16)  # the free one is the graph's
        assert figures() == (3 * 16, 16 + 2 + 2 * 16 + 16)
        graph.replay()
        assert torch.cuda.max_memory_allocated() == 3 * 16 * MIB + 2 * 512
        del y, z
        torch.cuda.empty_cache()
        assert figures() == (16, 16 + 2 + 2 * 16)
        del graph
        torch.cuda.empty_cache()
        assert figures() == (16, 16)
    gpu.trace.self_check()


def test_graphs_share_a_pool() -> None:
    with memgraph.virtual_gpu("rtx3090"):
        x = ones(16)
        first, second = torch.cuda.CUDAGraph(), torch.cuda.CUDAGraph()
        with torch.cuda.graph(first):
            y = (x + 1) * 2
        reserved = torch.cuda.memory_reserved()
        with torch.cuda.graph(second, pool=first.pool()):
            z = y * 3  # into the block that the first one freed
        assert torch.cuda.memory_reserved() == reserved
        assert first.pool() == second.pool() != torch.cuda.graph_pool_handle()
        first.reset()
        torch.cuda.empty_cache()
        assert torch.cuda.memory_reserved() == reserved
        del z


def test_a_training_step_is_captured_and_replayed() -> None:
    with memgraph.virtual_gpu("h200") as gpu:
        model = nn.Sequential(nn.Linear(64, 64), nn.Dropout(0.1), nn.Linear(64, 64)).cuda()
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        x = torch.zeros(8, 64, device="cuda")
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            model(x).sum().backward()
            optimizer.step()
        torch.cuda.current_stream().wait_stream(side)
        graph = torch.cuda.CUDAGraph()
        optimizer.zero_grad(set_to_none=True)
        with torch.cuda.graph(graph):
            assert torch.cuda.is_current_stream_capturing()
            model(x).sum().backward()
            optimizer.step()
        assert not torch.cuda.is_current_stream_capturing()
        before = torch.cuda.memory_stats()["requested_bytes.all.current"]
        for _ in range(3):
            graph.replay()
        assert torch.cuda.memory_stats()["requested_bytes.all.current"] == before
    gpu.trace.self_check()


def test_graphed_callables_train() -> None:
    with memgraph.virtual_gpu("rtx3090"):
        model = nn.Linear(64, 64).cuda()
        graphed = torch.cuda.make_graphed_callables(model, (torch.zeros(8, 64, device="cuda"),))
        graphed(torch.ones(8, 64, device="cuda")).sum().backward()
        assert model.weight.grad is not None and model.weight.grad.shape == (64, 64)


def test_what_the_real_card_refuses() -> None:
    with memgraph.virtual_gpu("rtx3090"):
        graph, x = torch.cuda.CUDAGraph(), torch.randn(4, device="cuda")
        with pytest.raises(RuntimeError, match="replay without a preceding successful capture"):
            graph.replay()
        with pytest.raises(RuntimeError, match="must be captured on a non-default stream"):
            graph.capture_begin()
        with pytest.raises(RuntimeError, match="not permitted when stream is capturing"), torch.cuda.graph(graph):
            x.sum().item()
        optimizer = torch.optim.Adam([nn.Parameter(x)])
        optimizer.param_groups[0]["params"][0].grad = x.clone()
        with pytest.raises(RuntimeError, match="capturable"), torch.cuda.graph(torch.cuda.CUDAGraph()):
            optimizer.step()


def test_a_pool_of_ones_own() -> None:
    with memgraph.virtual_gpu("rtx3090"):
        pool = torch.cuda.MemPool()
        with torch.cuda.use_mem_pool(pool):
            inside = ones(32)
        del inside
        outside = ones(32)  # not into what the pool keeps
        assert figures() == (32, 64)
        torch.cuda.empty_cache()
        assert figures() == (32, 64)
        with torch.cuda.use_mem_pool(pool):
            inside = ones(32)
        assert figures() == (64, 64)
        assert [segment["total_size"] for segment in pool.snapshot()] == [32 * MIB]
        del inside, pool
        assert figures() == (32, 32)
        del outside


def test_nothing_stays_behind() -> None:
    before = torch.cuda.CUDAGraph, torch.cuda.graph.default_capture_stream, torch.cuda.MemPool
    with memgraph.virtual_gpu("rtx3090"):
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            pass
    del graph
    assert (torch.cuda.CUDAGraph, torch.cuda.graph.default_capture_stream, torch.cuda.MemPool) == before
