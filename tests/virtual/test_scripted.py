"""TorchScript knows torch's functions by their identity, also those that the virtual GPU puts others in place of."""

from __future__ import annotations

import torch

import memgraph


def test_a_function_that_is_replaced_is_scripted_as_torchs_own() -> None:
    def made(x: torch.Tensor) -> torch.Tensor:
        return x * torch.tensor(2.0) + torch.as_tensor(1.0)

    with memgraph.virtual_gpu("h100"):
        scripted = torch.jit.script(made)
        assert scripted(torch.zeros(3, device="cuda")).shape == (3,)
    assert torch.equal(torch.jit.script(made)(torch.ones(1)), torch.tensor([3.0]))


def test_torchs_own_scripts_are_imported_inside() -> None:
    with memgraph.virtual_gpu("h100"):
        import torch.distributed.optim

        assert torch.distributed.optim.ZeroRedundancyOptimizer
