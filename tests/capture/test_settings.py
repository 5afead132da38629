"""Settings of the allocator that a script writes into the environment, as scripts do at their head."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

import memgraph
from memgraph.trace import Action

MIB = 2**20


def reserved(monkeypatch: pytest.MonkeyPatch, before: Callable[[], object], **kwargs: str) -> tuple[int, bool]:
    """MiB reserved for three tensors of 15 MiB, and whether segments are expandable, where the setting is written after
    something else."""
    monkeypatch.delenv("PYTORCH_CUDA_ALLOC_CONF", raising=False)
    monkeypatch.delenv("PYTORCH_ALLOC_CONF", raising=False)
    with memgraph.virtual_gpu("h200", **kwargs):
        before()
        monkeypatch.setenv("PYTORCH_ALLOC_CONF", "expandable_segments:True")
        kept = [torch.empty(15 * MIB, dtype=torch.uint8, device="cuda") for _ in range(3)]
        told = torch.cuda.memory._snapshot()["allocator_settings"]
        assert len(kept) == 3
        return torch.cuda.memory_reserved() // MIB, told["expandable_segments"]


@pytest.mark.parametrize("before", [lambda: None, torch.cuda.is_available, lambda: torch.manual_seed(0)])
def test_what_is_written_before_cuda_is_initialised_counts(
    monkeypatch: pytest.MonkeyPatch, before: Callable[[], object]
) -> None:
    """45 MiB are three pages of 20; each of three segments would have 16. Recorded with torch 2.11 on an H200 after
    each of these, that the setting then holds."""
    assert reserved(monkeypatch, before) == (60, True)


@pytest.mark.parametrize("before", [lambda: torch.cuda.init(), lambda: torch.empty(1, device="cuda")])
def test_what_is_written_afterwards_does_not(monkeypatch: pytest.MonkeyPatch, before: Callable[[], object]) -> None:
    """Recorded likewise, that it does not."""
    found, expandable = reserved(monkeypatch, before)
    assert (found - found % 16, expandable) == (48, False)


def test_what_the_call_says_comes_first(monkeypatch: pytest.MonkeyPatch) -> None:
    assert reserved(monkeypatch, lambda: None, alloc_conf="") == (48, False)


def test_a_share_of_the_memory_is_kept() -> None:
    """`set_per_process_memory_fraction` initialises CUDA, so that settings are read before it and not after."""
    with memgraph.virtual_gpu("t4") as gpu:
        torch.cuda.set_per_process_memory_fraction(0.01)
        torch.empty(2**30, dtype=torch.uint8, device="cuda")
    assert any(event.action is Action.OUT_OF_MEMORY for event in gpu.trace.events)
