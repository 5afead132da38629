"""Checkpoint plans against torch's `activation_memory_budget`: the second half of `peers.py`.

That setting is one of torch.compile's, so both are compiled: the model as it is with the setting from 0.9 to 0, and the
model with our plans and the setting left at 1. Each step is traced by the same recorder, for its true peak, and priced
alike: the products by the roofline, each generated kernel by the bytes of its arguments. What that is above the step
compiled without either is the recompute. Our plans are made for a row of peaks, with costs that know what a compiler
does (`benchmarks/checkpoint/planner_compiled.py`); at each peak that the setting reaches the cheapest of ours that is
not above it is taken.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from benchmarks.checkpoint.peers_model import GIB, options, told
from benchmarks.checkpoint.planner_compiled import CompiledPlanner

BUDGETS = (0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3, 0.2, 0.1, 0.0)
LIMITS = 16
"""Of our plans, from everything kept to the least memory."""


def compared() -> dict[str, Any]:
    """Peaks in bytes, recompute as a share of the step."""
    with launches() as launched:
        _, usual = priced(launched)
        theirs = [{"budget": share, **_row(priced(launched, activation_memory_budget=share), usual)}
                  for share in BUDGETS]  # fmt: skip
        planner = CompiledPlanner(options(), 64 * GIB, host_call=0)
        planner._prepare()
        plans = [planner._plan(choice) for choice in planner._spread(LIMITS)]
        ours = [_row(priced(launched, checkpoint=plan.text), usual) for plan in plans]
    for row in theirs:
        row["ours"] = min((one for one in ours if one["peak"] <= row["peak"]), key=lambda one: one["recompute"])
    return {"step_ms": usual / 1e6, "rows": theirs, "all_of_ours": ours}


def _row(found: tuple[int, float], usual: float) -> dict[str, Any]:
    return {"peak": found[0], "recompute": found[1] / usual - 1}


@contextmanager
def launches() -> Iterator[list[int]]:
    """Bytes of the arguments of each generated kernel that is launched while open."""
    import torch

    from memgraph.virtual.inductor import tuning

    found: list[int] = []
    usual = tuning.first_launch

    def counting(timed: Any) -> Callable[..., None]:
        run = usual(timed)

        def launch(self: Any, *args: Any, **kwargs: Any) -> None:
            tensors = [(name, arg) for name, arg in zip(self.fn.arg_names, args, strict=False)
                       if isinstance(arg, torch.Tensor)]  # fmt: skip
            found.append(sum(arg.nbytes * (1 + name.startswith("in_out")) for name, arg in tensors))
            run(self, *args, **kwargs)

        return launch

    tuning.first_launch = counting
    try:
        yield found
    finally:
        tuning.first_launch = usual


def priced(launched: list[int], **settings: Any) -> tuple[int, float]:
    """The true requested peak of two compiled steps, and the nanoseconds of the card for one."""
    from memgraph.api import predict
    from memgraph.gpu.specs import find
    from memgraph.plan.cost import HostCosts, costs

    launched.clear()
    card = find("h100")
    trace = predict(dataclasses.replace(options(), compile="default", **settings))
    kernels = sum(_nanoseconds("pointwise", size / card.bandwidth) for size in launched)
    products = sum(_product(op, card) for op in trace.ops if op.name.endswith("mm.out"))
    others = sum(spent.device for op, spent in zip(trace.ops, costs(card, HostCosts.of(0))(trace), strict=True)
                 if trace.phases[op.phase].name == "optimizer")  # fmt: skip
    return trace.peak.requested, (kernels + products + others) / trace.settings["steps"]


def _product(op: Any, card: Any) -> float:
    """Of `mm`, `bmm`, `addmm` into a buffer that is there, which is the last argument."""
    left, right, _ = op.inputs[-3:]
    flops = 2 * math.prod(left.shape) * right.shape[-1]
    moved = sum(spec.bytes for spec in op.inputs[:-1]) + op.outputs[0].bytes
    return _nanoseconds("product", max(flops / card.half_rate, moved / card.bandwidth))


def _nanoseconds(kind: str, seconds: float) -> float:
    """Of a kernel that would take so long at the roofs."""
    from memgraph.plan.cost import KERNEL, REACHED

    return KERNEL + 1e9 * seconds / REACHED[kind]


def table(found: dict[str, Any]) -> str:
    """A row a setting, in GiB."""
    from tabulate import tabulate

    rows = [[f"{row['budget']:g}", told(row), told(row["ours"])] for row in found["rows"]]
    headers = ("budget", "activation_memory_budget: true peak, recompute", "ours, no higher")
    return tabulate(rows, headers, tablefmt="github", disable_numparse=True)


def verdict(found: dict[str, Any]) -> str:
    """In words."""
    rows = found["rows"]
    more = sum(row["ours"]["recompute"] > row["recompute"] + 1e-4 for row in rows)
    less = sum(row["ours"]["recompute"] < row["recompute"] - 1e-4 for row in rows)
    at = f"At their peaks ours recomputes less in {less}, more in {more}"
    return f"activation_memory_budget: {len(rows)} settings. {at}."


if __name__ == "__main__":
    raise SystemExit("run benchmarks.checkpoint.peers: both halves are one run")
