"""What torch says of its own build, and of the card besides its memory."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch

import memgraph
from memgraph.virtual.cuda_build import looks_built_for_cuda


def test_torch_describes_itself_as_a_build_for_cuda() -> None:
    before = (torch.version.cuda, torch.backends.cudnn.version(), torch.__config__.show())
    with memgraph.virtual_gpu("t4"):
        assert torch.version.cuda is not None and torch.version.cuda.startswith("13.")
        assert "CUDA Runtime 13" in torch.__config__.show() and torch.__config__.show().startswith("PyTorch built with")
        assert torch.backends.cuda.is_built() and torch.backends.cudnn.is_available()
        assert isinstance(torch.backends.cudnn.version(), int) and torch.backends.cudnn.version() >= 90000
        assert {"sm_75", "sm_90"} <= set(torch.cuda.get_arch_list())
    assert (torch.version.cuda, torch.backends.cudnn.version(), torch.__config__.show()) == before


def test_nvml_says_what_is_in_use_and_that_the_card_is_at_rest() -> None:
    with memgraph.virtual_gpu("t4") as gpu:
        held = torch.zeros(250, device="cuda")
        assert torch.cuda.device_memory_used() == gpu.spec.context + 2 * 2**20
        assert torch.cuda.utilization() == torch.cuda.temperature() == torch.cuda.power_draw() == 0
        assert "MB GPU memory" in torch.cuda.list_gpu_processes()
        del held


def test_what_was_compiled_can_be_forgotten() -> None:
    """In a process of its own: what `reset` imports is imported once."""
    script = "import memgraph, torch\nwith memgraph.virtual_gpu('t4'):\n    torch._dynamo.reset()"
    subprocess.run([sys.executable, "-c", script], check=True, timeout=120)


def test_a_cuda_build_that_refuses_the_cudnn_it_found_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    """`torch.backends.cudnn.version()` raises where another cuDNN is found first than what torch was built with."""

    def refuse() -> int:
        raise RuntimeError("cuDNN version incompatibility")

    monkeypatch.setattr(torch.version, "cuda", "13.0")
    monkeypatch.setattr(torch.backends.cudnn, "version", refuse)
    with looks_built_for_cuda((2, 13)):
        assert "CUDA Runtime 13.0" in torch.__config__.show()
