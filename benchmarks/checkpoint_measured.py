"""Measure on a real GPU what checkpoint plans promise, for docs/checkpoint.md.

    python benchmarks/checkpoint_measured.py OUT_FOLDER [plan.json ...]

Takes the plans of `benchmarks/checkpoint_plans/` (made without a GPU by `checkpoint_plans.py`), needs torch alone, and
writes OUT_FOLDER/checkpoint_measured.json: for each plan the peaks of two steps under the plan's budget, the time of a
step with and without it, and how far loss and gradients are from the step without. With two runs of the step as it is,
which says how far the GPU's own order of additions takes them.
"""

from __future__ import annotations

import copy
import functools
import gc
import json
import statistics
import sys
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
PLANS = ROOT / "benchmarks" / "checkpoint_plans"
MIB = 2**20
_TIMED = 7
"""Steps whose median is taken."""


def main() -> None:
    import torch

    from memgraph.plan.plan_file import Plan, load_plan

    folder = Path(sys.argv[1])
    files = [Path(name) for name in sys.argv[2:]] or sorted(PLANS.glob("*.json"))
    plans = {path.stem: load_plan(path) for path in files}
    result: dict[str, Any] = {
        "gpu": torch.cuda.get_device_name(), "torch": torch.__version__, "launch_ns": launch_nanoseconds(), "plans": {}
    }  # fmt: skip
    for batch, seq in sorted({(plan.made_for["batch"], plan.made_for["seq"]) for plan in plans.values()}):
        base, noise = measure(Plan(), batch, seq, None), gradients(Plan(), batch, seq)
        again = difference(noise, gradients(Plan(), batch, seq))
        result["plans"][f"none_b{batch}_s{seq}"] = {**base, "difference": again}
        for name, plan in plans.items():
            if (plan.made_for["batch"], plan.made_for["seq"]) == (batch, seq):
                found = measure(plan, batch, seq, plan.made_for["budget"])
                found["difference"] = difference(noise, gradients(plan, batch, seq))
                found["time_ratio"] = found["step_seconds"] / base["step_seconds"]
                found["promised_ratio"] = 1 + plan.promised["recompute"]
                found["promised_peak"] = plan.promised["peak"]
                result["plans"][name] = found
                print(name, json.dumps(found), flush=True)
        del noise
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "checkpoint_measured.json").write_text(json.dumps(result, indent=1) + "\n")


def measure(plan: Any, batch: int, seq: int, budget: int | None) -> dict[str, Any]:
    """Peaks of two steps, with no more memory than the budget; then the time of further ones with all of it."""
    import torch

    fresh()
    total = torch.cuda.get_device_properties(0).total_memory
    torch.cuda.set_per_process_memory_fraction(min(1.0, budget / total) if budget else 1.0)
    try:
        step = training(plan, batch, seq)
        for _ in range(2):
            step()
        torch.cuda.synchronize()
        stats = torch.cuda.memory_stats()
        peak = {"requested": stats["requested_bytes.all.peak"], "allocated": torch.cuda.max_memory_allocated(),
                "reserved": torch.cuda.max_memory_reserved()}  # fmt: skip
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
    times = []
    for _ in range(_TIMED):
        torch.cuda.synchronize()
        start = time.perf_counter()
        step()
        torch.cuda.synchronize()
        times.append(time.perf_counter() - start)
    return {"peak": peak, "step_seconds": statistics.median(times), "fastest_seconds": min(times)}


def training(plan: Any, batch: int, seq: int) -> Any:
    """A step as `memgraph analyze` predicts it: AdamW, bf16 autocast, gradients set to none."""
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

    return step


def built(batch: int, seq: int) -> tuple[Any, dict[str, Any], Any]:
    """The same weights and the same inputs each time, the model on the card."""
    model, inputs, forward = _on_host(batch, seq)
    return copy.deepcopy(model).to("cuda"), inputs, forward


@functools.cache
def _on_host(batch: int, seq: int) -> tuple[Any, dict[str, Any], Any]:
    import torch

    from memgraph.models.registry import resolve

    torch.manual_seed(0)
    job: Any = resolve("nanovlm-222m").build({}, batch, seq)
    return job.model().train(), dict(job.inputs()), job.forward


def gradients(plan: Any, batch: int, seq: int) -> tuple[float, dict[str, Any]]:
    """Loss and gradients of one step, the latter on the host."""
    import torch

    from memgraph.plan.apply import apply_plan

    fresh()
    model, inputs, forward = built(batch, seq)
    apply_plan(model, plan)
    with torch.autocast("cuda", torch.bfloat16):
        _, loss = forward(model, {name: value.to("cuda") for name, value in inputs.items()})
    loss.backward()
    return loss.item(), {name: p.grad.to("cpu") for name, p in model.named_parameters() if p.grad is not None}


def difference(ours: tuple[float, dict[str, Any]], theirs: tuple[float, dict[str, Any]]) -> dict[str, Any]:
    """Of two losses, and of two sets of gradients: how many tensors are equal to the bit, and how far the others are,
    as the norm of the difference by the norm."""
    import torch

    equal = sum(torch.equal(value, theirs[1][name]) for name, value in ours[1].items())
    apart = [float((value - theirs[1][name]).norm() / (value.norm() + 1e-12)) for name, value in ours[1].items()]
    return {"loss": ours[0], "loss_difference": theirs[0] - ours[0], "equal_gradients": equal,
            "gradients": len(ours[1]), "largest_relative": max(apart)}  # fmt: skip


def fresh() -> None:
    """Nothing on the card, cuBLAS's workspaces included, and the counters at zero."""
    import torch

    gc.collect()
    torch._C._cuda_clearCublasWorkspaces()
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()


def launch_nanoseconds() -> float:
    """From one small kernel to the next, with autograd: what eager PyTorch does not go below."""
    import torch

    x = torch.ones(64, device="cuda", requires_grad=True)
    for count in (200, 4000):
        torch.cuda.synchronize()
        start = time.perf_counter()
        y = x
        for _ in range(count):
            y = y * 1.0
        torch.cuda.synchronize()
        elapsed = time.perf_counter() - start
    return 1e9 * elapsed / count


if __name__ == "__main__":
    sys.path.insert(0, str(ROOT))
    main()
