"""NCCL's memory, in words."""

from __future__ import annotations

import pytest

from memgraph.gpu.nccl import stated


def test_it_is_said_for_how_many_communicators_and_where_it_was_measured() -> None:
    assert stated(1).startswith("NCCL takes memory beside PyTorch's for the communicator: 365.0 MiB to 525.0 MiB")
    assert "each of 3 communicators" in stated(3)
    assert "two H200 (NCCL 2.28.9)" in stated(1)


def test_what_the_environment_makes_of_its_buffers_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NCCL_DEBUG", "INFO")  # takes nothing of the card
    assert "set here" not in stated(1)
    monkeypatch.setenv("NCCL_BUFFSIZE", "8388608")
    assert "(NCCL 2.28.9), and without NCCL_BUFFSIZE=8388608, which is set here, more among more ranks" in stated(1)
