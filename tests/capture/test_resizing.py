"""Storages that are emptied and filled again."""

from __future__ import annotations

import torch

import memgraph


def test_a_storage_gives_its_memory_back_and_takes_it_again() -> None:
    with memgraph.virtual_gpu("h100"):
        tensor = torch.zeros(1024, device="cuda")
        view, storage = tensor[:10], tensor.untyped_storage()
        assert torch.cuda.memory_allocated() == 4096
        storage.resize_(0)
        assert torch.cuda.memory_allocated() == 0
        storage.resize_(4096)
        assert torch.cuda.memory_allocated() == 4096
        storage.resize_(8192)
        assert torch.cuda.memory_allocated() == 8192
        assert torch.cuda.max_memory_allocated() == 4096 + 8192  # the new block is taken before the old one goes
        del tensor, storage
        assert torch.cuda.memory_allocated() == 8192
        del view
        assert torch.cuda.memory_allocated() == 0


def test_one_that_dies_empty_frees_nothing() -> None:
    with memgraph.virtual_gpu("h100") as gpu:
        tensor = torch.zeros(1024, device="cuda")
        tensor.untyped_storage().resize_(0)
        del tensor
        assert torch.cuda.memory_allocated() == 0
    gpu.trace.self_check()


def test_the_op_of_compiled_steps_is_seen() -> None:
    """Its schema says of no argument that it is written to."""
    import torch._inductor.fx_passes  # defines it

    with memgraph.virtual_gpu("h100") as gpu:
        tensor = torch.zeros(1024, device="cuda")
        torch.ops.inductor.resize_storage_bytes_(tensor, 0)
        assert torch.cuda.memory_allocated() == 0
        torch.ops.inductor.resize_storage_bytes_(tensor, 8192)
        assert torch.cuda.memory_allocated() == 8192
    gpu.trace.self_check()
