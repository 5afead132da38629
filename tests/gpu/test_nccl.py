"""NCCL's memory, in words."""

from __future__ import annotations

from memgraph.gpu.nccl import stated


def test_it_is_said_for_how_many_communicators_and_where_it_was_measured() -> None:
    assert stated(1).startswith("NCCL takes memory beside PyTorch's for the communicator: 365.0 MiB to 525.0 MiB")
    assert "each of 3 communicators" in stated(3)
    assert "two H200 (NCCL 2.28.9)" in stated(1)
