"""A training step of nanoVLM on the card, with a checkpoint plan or without: what `measured.py` and `kernel_times.py`
time. Needs torch alone."""

from __future__ import annotations

import copy
import functools
import gc
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

PLANS = Path(__file__).with_name("plans")


def training(plan: Any, batch: int, seq: int) -> tuple[Any, Callable[[], None]]:
    """A model, and a step as `memgraph analyze` predicts it: AdamW, bf16 autocast, gradients set to none."""
    import torch

    from memgraph.plan.apply import apply_plan

    model, inputs, forward = built(batch, seq)
    apply_plan(model, plan)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-5)
    device: dict[str, Any] = {}
    held: dict[str, Any] = {}

    def step() -> None:
        for name, value in inputs.items():
            device[name] = value.to("cuda")
        optimizer.zero_grad(set_to_none=True)
        with torch.autocast("cuda", torch.bfloat16):
            held["outputs"], held["loss"] = forward(model, device)
        held["loss"].backward()
        optimizer.step()

    return model, step


def built(batch: int, seq: int, attention: str = "sdpa") -> tuple[Any, dict[str, Any], Any]:
    """The same weights and the same inputs each time, the model on the card."""
    model, inputs, forward = _on_host(batch, seq, attention)
    return copy.deepcopy(model).to("cuda"), inputs, forward


@functools.cache
def _on_host(batch: int, seq: int, attention: str) -> tuple[Any, dict[str, Any], Any]:
    import torch

    from memgraph.models.registry import resolve

    torch.manual_seed(0)
    job: Any = resolve("nanovlm-222m").build({"attention": attention}, batch, seq)
    return job.model().train(), dict(job.inputs()), job.forward


def clocked(step: Callable[[], None]) -> tuple[float, float]:
    """Seconds of a step until the card is done, and until the host is."""
    import torch

    torch.cuda.synchronize()
    start = time.perf_counter()
    step()
    issued = time.perf_counter() - start
    torch.cuda.synchronize()
    return time.perf_counter() - start, issued


def fresh() -> None:
    """Nothing on the card, cuBLAS's workspaces included, and the counters at zero."""
    import torch

    gc.collect()
    torch._C._cuda_clearCublasWorkspaces()
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
