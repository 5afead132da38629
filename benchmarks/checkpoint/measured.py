"""Measure on a real GPU what checkpoint plans promise, for docs/checkpoint.md.

    python -m benchmarks.checkpoint.measured OUT_FOLDER [plan.json ...]

Takes the plans of `benchmarks/checkpoint/plans/` (made without a GPU by `make_plans.py`), needs torch alone, and
writes OUT_FOLDER/checkpoint_measured.json, anew after each part:

- peaks of two steps under each plan's budget, of a fresh model;
- step times, a step without and one with each plan in turn on one model, for the host's processor is shared and runs
  at times at half its speed; and the time of the card's kernels alone, which no host lengthens;
- what a call, a hook and a policy cost on this host (`host_costs.py`), which the promised times are made of;
- gradients against the unchecked step's: with the usual kernels, at the plan's batch; and in a process of its own with
  deterministic ones, with the plans' regions alone, where they must be equal to the bit, and with the loss in chunks.
"""

from __future__ import annotations

import functools
import gc
import json
import os
import statistics
import subprocess
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from benchmarks.checkpoint import host_costs
from benchmarks.checkpoint.kernel_times import under_profiler
from benchmarks.checkpoint.step import PLANS, built, clocked, fresh, training

ROOT = Path(__file__).resolve().parents[2]
_WARM, _TIMED = 2, 20
"""Rounds of a step without a plan and one with each: not counted, and counted."""
_SMALL = (4, 512)
"""Batch and tokens of the deterministic gradients: attention by separate products keeps its scores."""


def main() -> None:
    folder = Path(sys.argv[1])
    folder.mkdir(parents=True, exist_ok=True)
    if "--deterministic" in sys.argv:
        (folder / "deterministic.json").write_text(json.dumps(deterministic(), indent=1) + "\n")
        return
    import torch

    from memgraph.plan.plan_file import load_plan

    files = [Path(name) for name in sys.argv[2:]] or sorted(PLANS.glob("*.json"))
    plans = {path.stem: load_plan(path) for path in files}
    result: dict[str, Any] = {
        "gpu": torch.cuda.get_device_name(), "torch": torch.__version__, "launch_ns": launch_nanoseconds(), "plans": {}
    }  # fmt: skip
    save = functools.partial(_save, result, folder / "checkpoint_measured.json")
    for size in sorted({made_for(plan) for plan in plans.values()}):
        mine = {name: plan for name, plan in plans.items() if made_for(plan) == size}
        save(functools.partial(at_batch, mine, *size, result["plans"], save))
    save(lambda: result.update(host=host_costs.measure()))
    for size in sorted({made_for(plan) for plan in plans.values()}):  # last, for a profiler slows what comes after it
        mine = {name: plan for name, plan in plans.items() if made_for(plan) == size}
        save(functools.partial(busy, mine, *size, result["plans"]))
    save(lambda: result.update(deterministic=in_a_process_of_its_own(folder)))


def made_for(plan: Any) -> tuple[int, int]:
    """Batch and tokens."""
    return plan.made_for["batch"], plan.made_for["seq"]


def _save(result: dict[str, Any], path: Path, part: Callable[[], object]) -> None:
    """Do a part, say how long it took, and write what there is."""
    start = time.perf_counter()
    part()
    path.write_text(json.dumps(result, indent=1) + "\n")
    print(f"{time.perf_counter() - start:6.1f} s", list(result["plans"])[-1:], flush=True)


def at_batch(plans: dict[str, Any], batch: int, seq: int, found: dict[str, Any], save: Callable[[Any], None]) -> None:
    """Peaks, then times and gradients, of the plans for one batch."""
    from memgraph.plan.plan_file import Plan

    base = f"none_b{batch}_s{seq}"
    for name, plan in {base: Plan(), **plans}.items():
        found[name] = {"peak": peaks(plan, batch, seq, plan.made_for.get("budget"))}
    fresh()
    model, step = training(Plan(), batch, seq)
    seconds = timed(model, step, {base: Plan(), **plans})
    for name, plan in plans.items():
        found[name] |= compared(seconds[base], seconds[name])
        found[name] |= {"promised_ratio": 1 + plan.promised["recompute"], "promised_peak": plan.promised["peak"]}
        print(name, json.dumps(found[name]), flush=True)
    found[base] |= _summary("", seconds[base])
    del model, step
    save(lambda: compare(plans, base, batch, seq, found))


def peaks(plan: Any, batch: int, seq: int, budget: int | None) -> dict[str, int]:
    """Of two steps of a fresh model, with no more memory than the budget."""
    import torch

    fresh()
    total = torch.cuda.get_device_properties(0).total_memory
    torch.cuda.set_per_process_memory_fraction(min(1.0, budget / total) if budget else 1.0)
    try:
        _, step = training(plan, batch, seq)
        for _ in range(2):
            step()
        torch.cuda.synchronize()
        stats = torch.cuda.memory_stats()
        return {"requested": stats["requested_bytes.all.peak"], "allocated": torch.cuda.max_memory_allocated(),
                "reserved": torch.cuda.max_memory_reserved()}  # fmt: skip
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)


def timed(model: Any, step: Callable[[], None], plans: dict[str, Any]) -> dict[str, list[tuple[float, float]]]:
    """Seconds of a step with each plan, in rounds; and until the host had issued all of it."""
    from memgraph.plan.apply import apply_plan

    found: dict[str, list[tuple[float, float]]] = {name: [] for name in plans}
    gc.collect()
    for _ in range(_WARM + _TIMED):
        for name, plan in plans.items():
            with apply_plan(model, plan):
                found[name].append(clocked(step))
    return {name: times[_WARM:] for name, times in found.items()}


def compared(plain: list[tuple[float, float]], planned: list[tuple[float, float]]) -> dict[str, Any]:
    """The fastest of each by the other, and the median of rounds."""
    rounds = list(zip(planned, plain, strict=True))
    return {
        **_summary("", planned), **_summary("unchecked_", plain),
        "time_ratio": min(planned)[0] / min(plain)[0],
        "median_ratio": statistics.median(one[0] / other[0] for one, other in rounds),
        "all_seconds": [[round(one[0], 4), round(other[0], 4)] for one, other in rounds],
    }  # fmt: skip


def busy(plans: dict[str, Any], batch: int, seq: int, found: dict[str, Any]) -> None:
    """Milliseconds of the card's kernels in a step with each plan, and in one without."""
    from memgraph.plan.apply import apply_plan
    from memgraph.plan.plan_file import Plan

    fresh()
    model, step = training(Plan(), batch, seq)
    for name, plan in plans.items():
        with apply_plan(model, plan):
            step()
            found[name]["busy_ms"] = under_profiler(step)["busy_ms"]
        found[name]["unchecked_busy_ms"] = under_profiler(step)["busy_ms"]


def _summary(prefix: str, times: list[tuple[float, float]]) -> dict[str, float]:
    return {
        f"{prefix}step_seconds": statistics.median(whole for whole, _ in times),
        f"{prefix}fastest_seconds": min(whole for whole, _ in times),
        f"{prefix}issue_seconds": min(issued for _, issued in times),
    }


def compare(plans: dict[str, Any], base: str, batch: int, seq: int, found: dict[str, Any]) -> None:
    """Loss and gradients of each plan against the unchecked step's, with the kernels that training uses."""
    from memgraph.plan.plan_file import Plan

    fresh()
    with gradients(batch, seq) as of:
        plain = of(Plan())
        found[base]["difference"] = difference(plain, of(Plan()))
        for name, plan in plans.items():
            found[name]["difference"] = difference(plain, of(plan))


@contextmanager
def gradients(batch: int, seq: int, attention: str = "sdpa") -> Iterator[Callable[[Any], tuple[float, dict[str, Any]]]]:
    """From a plan to loss and gradients of one step, always from the same weights."""
    import torch

    from memgraph.plan.apply import apply_plan

    model, inputs, forward = built(batch, seq, attention)
    device = {name: value.to("cuda") for name, value in inputs.items()}

    def of(plan: Any) -> tuple[float, dict[str, Any]]:
        model.zero_grad(set_to_none=True)
        with apply_plan(model, plan):
            with torch.autocast("cuda", torch.bfloat16):
                _, loss = forward(model, device)
            loss.backward()
        return loss.item(), {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}

    yield of


def difference(ours: tuple[float, dict[str, Any]], theirs: tuple[float, dict[str, Any]]) -> dict[str, Any]:
    """Of two losses, and of two sets of gradients: how many tensors are equal to the bit, and how far the others are,
    as the norm of the difference by the norm, the worst of them by name."""
    import torch

    equal = sum(torch.equal(value, theirs[1][name]) for name, value in ours[1].items())
    apart = {name: float((value - theirs[1][name]).norm() / (value.norm() + 1e-12)) for name, value in ours[1].items()}
    worst = sorted(apart, key=lambda name: -apart[name])[:5]
    return {
        "loss": ours[0], "loss_difference": theirs[0] - ours[0], "equal_gradients": equal, "gradients": len(ours[1]),
        "largest_relative": apart[worst[0]], "median_relative": statistics.median(apart.values()),
        "worst": {name: [apart[name], float(ours[1][name].norm())] for name in worst},
    }  # fmt: skip


def in_a_process_of_its_own(folder: Path) -> dict[str, Any]:
    """Deterministic kernels have to be asked for before CUDA starts."""
    environment = {**os.environ, "CUBLAS_WORKSPACE_CONFIG": ":4096:8"}
    fresh()
    command = [sys.executable, "-m", "benchmarks.checkpoint.measured", str(folder), "--deterministic"]
    subprocess.run(command, cwd=ROOT, env=environment, check=True)
    found: dict[str, Any] = json.loads((folder / "deterministic.json").read_text())
    return found


def deterministic() -> dict[str, Any]:
    """Gradients against the unchecked step's: of the plans' regions alone, of the loss in chunks alone, and of that
    with the partial sums of bf16 products kept in float32. Attention is made of separate products: no fused kernel that
    takes this model's mask has a deterministic backward."""
    import torch

    from memgraph.plan.plan_file import Plan, load_plan

    found: dict[str, Any] = {"batch": _SMALL[0], "seq": _SMALL[1]}
    torch.use_deterministic_algorithms(True, warn_only=True)
    with warnings.catch_warnings(record=True) as said, gradients(*_SMALL, attention="manual") as of:
        warnings.simplefilter("always")
        plain = of(Plan())
        found["unchecked again"] = difference(plain, of(Plan()))
        for path in sorted(PLANS.glob("*.json")):
            if (plan := load_plan(path)).regions:
                found[f"{path.stem}, regions alone"] = difference(plain, of(Plan(plan.regions)))
        found["8 chunks alone"] = difference(plain, of(Plan((), 8)))
        found["2 chunks alone"] = difference(plain, of(Plan((), 2)))
        torch.backends.cuda.matmul.allow_bf16_reduced_precision_reduction = False
        exact = of(Plan())
        found["float32 sums, unchecked against the usual"] = difference(plain, exact)
        found["float32 sums, 8 chunks alone"] = difference(exact, of(Plan((), 8)))
    found["not deterministic"] = sorted({str(w.message)[:200] for w in said if "deterministic" in str(w.message)})
    return found


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
    main()
