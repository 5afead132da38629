"""How long the kernels of each op take on a real GPU, for the roofline of `memgraph/plan/cost.py`.

    python -m benchmarks.checkpoint.kernel_times OUT_FOLDER

Needs torch alone. Steps of nanoVLM at two sizes, unchecked and with checkpoint plans, under PyTorch's profiler: by op
and shapes, the time of the kernels that it launched; of each step, the time that the card was busy, and the time of the
same step without the profiler until the host had issued it and until the card was done. Writes
OUT_FOLDER/kernel_times.json.
"""

from __future__ import annotations

import json
import sys
import time
from collections import defaultdict
from pathlib import Path
from typing import Any

from benchmarks.checkpoint import host_costs
from benchmarks.checkpoint.step import PLANS, clocked, fresh, training

_ROUNDS = 12


def main() -> None:
    import torch

    from memgraph.plan.plan_file import Plan, load_plan

    folder = Path(sys.argv[1])
    folder.mkdir(parents=True, exist_ok=True)
    found: dict[str, Any] = {"gpu": torch.cuda.get_device_name(), "torch": torch.__version__, "steps": {}}
    plans = {path.stem: load_plan(path) for path in sorted(PLANS.glob("*.json"))}
    for batch in (8, 32):
        fresh()
        mine = {"none": Plan(), **{name: plan for name, plan in plans.items() if plan.made_for["batch"] == batch}}
        model, step = training(Plan(), batch, 512)
        for name, plan in mine.items():
            found["steps"][f"b{batch} {name}"] = of_step(model, step, plan, rows=name in ("none", "curve_5"))
            (folder / "kernel_times.json").write_text(json.dumps(found) + "\n")
            print(batch, name, {k: v for k, v in found["steps"][f"b{batch} {name}"].items() if k != "ops"}, flush=True)
        del model, step
    fresh()
    found["host"] = host_costs.measure()
    (folder / "kernel_times.json").write_text(json.dumps(found) + "\n")


def of_step(model: Any, step: Any, plan: Any, rows: bool) -> dict[str, Any]:
    """Of one step: see the module's text."""
    from memgraph.plan.apply import apply_plan

    with apply_plan(model, plan):
        times = [clocked(step) for _ in range(2 + _ROUNDS)][2:]
        profiled = under_profiler(step)
    whole = sorted(one for one, _ in times)
    return {
        "whole_ms": [round(1e3 * one, 2) for one in whole], "issue_ms": round(1e3 * min(two for _, two in times), 2),
        "busy_ms": profiled["busy_ms"], "span_ms": profiled["span_ms"], **({"ops": profiled["ops"]} if rows else {}),
    }  # fmt: skip


def under_profiler(step: Any) -> dict[str, Any]:
    """Microseconds of the kernels of each op, by its name and its inputs' shapes."""
    import torch
    from torch.profiler import ProfilerActivity, profile

    with profile(activities=[ProfilerActivity.CPU, ProfilerActivity.CUDA], record_shapes=True) as profiler:
        step()
        torch.cuda.synchronize()
        time.sleep(0.01)
    table: dict[tuple[str, str, str], list[float]] = defaultdict(lambda: [0, 0.0])
    busy = 0.0
    for event in profiler.events():
        for kernel in event.kernels if event.name.startswith("aten::") else ():  # not the profiler's own
            row = table[event.name, json.dumps(event.input_shapes), kernel.name]
            row[0] += 1
            row[1] += kernel.duration
            busy += kernel.duration
    device = [e for e in profiler.events() if e.device_type == torch.autograd.DeviceType.CUDA]
    span = max((e.time_range.end for e in device), default=0) - min((e.time_range.start for e in device), default=0)
    ops = [[name, json.loads(shapes), kernel[:120], *row] for (name, shapes, kernel), row in table.items()]
    return {"ops": ops, "busy_ms": round(busy / 1e3, 2), "span_ms": round(span / 1e3, 2)}


if __name__ == "__main__":
    main()
