"""Checkpoint plans against torch's own `sac_milp` and `activation_memory_budget`: one model, one run, no GPU.

    python -m benchmarks.checkpoint.peers [OUT.json]        # wants PuLP and pwlf, for sac_milp, and Triton

A GPT-like decoder of ten blocks, AdamW, bf16 parameters, on a virtual H100. `sac_milp` is given its own estimators'
figures (torch.distributed._tools: MemTracker, RuntimeEstimator, SACEstimator), its blocks as units, and a range of
budgets. What it answers is a share of each block's activations to discard; the op-level policy for that share is the
one that torch documents (`get_optimal_checkpointing_policy_per_module`). Each plan, theirs and ours, is then run and
traced by the same recorder, and the recomputed operations are counted from that trace: its true peak, and its true
recompute. Ours is asked for at the true peak that theirs reached. `peers_compiled.py` is the other half.
"""

from __future__ import annotations

import contextlib
import json
import sys
from pathlib import Path
from typing import Any

from benchmarks.checkpoint import peers_compiled
from benchmarks.checkpoint.peers_model import BATCH, BLOCKS, GIB, PREPARE, SEQ, decoder, options, told

SHARES = (0.95, 0.9, 0.85, 0.8, 0.75, 0.7, 0.65, 0.6, 0.55, 0.5, 0.45)
"""Budgets, as shares of the peak with everything kept."""


def their_graph() -> Any:
    """What sac_milp is given."""
    import torch
    from torch.distributed._tools.ilp_utils import aggregate_stats, parse_module_info
    from torch.distributed._tools.mem_tracker import MemTracker
    from torch.distributed._tools.runtime_estimator import RuntimeEstimator
    from torch.distributed._tools.sac_estimator import SACEstimator
    from torch.utils import _runtime_estimation as estimation

    import memgraph
    from memgraph.gpu.specs import find

    card = find("h100")  # torch asks Triton and the driver for these
    estimation.get_gpu_dram_gbps = lambda: card.bandwidth / 1e9
    estimation.get_device_tflops = lambda _dtype: card.half_rate / 1e12
    with memgraph.virtual_gpu("h100"):
        model = decoder().to(torch.bfloat16).cuda()
        optimizer = torch.optim.AdamW(model.parameters(), lr=1e-5)
        tokens = torch.zeros(BATCH, SEQ, dtype=torch.long, device="cuda")

        def step() -> None:
            model(tokens, tokens).backward()
            optimizer.step()
            optimizer.zero_grad()

        step()
        memory, runtime, sac = MemTracker(), RuntimeEstimator(), SACEstimator()
        memory.track_external(model, optimizer)
        for tracker in (memory, runtime("operator-level-cost-model"), sac("operator-level-cost-model")):
            with tracker:
                step()
        info = aggregate_stats(model, memory, runtime, sac, torch.device("cuda", 0))
        return parse_module_info(info), dict(sac.sac_mod_stats)


def theirs(graph: Any, stats: dict[str, Any], budget: int) -> tuple[int, Any] | None:
    """The peak that sac_milp promises for a budget, and what applies its plan; None where it finds none."""
    from torch.distributed._tools.sac_ilp import get_optimal_checkpointing_policy_per_module, sac_milp

    units = [f"Decoder.blocks.{number}" for number in range(BLOCKS)]
    shares, _, promised = sac_milp(graph, budget / GIB, ac_units=units)
    if promised == -1:
        return None
    policies = {
        name: (stats[name].func_names, get_optimal_checkpointing_policy_per_module(stats[name], 1 - share))
        for name, share in shares.items()
        if share > 0
    }

    def apply(model: Any) -> None:
        for name, (ops, saved) in policies.items():
            block = model.get_submodule(name.removeprefix("Decoder."))
            block.forward = wrapped(block.forward, ops, saved)

    return int(promised), apply


def wrapped(forward: Any, ops: list[str], saved: list[int]) -> Any:
    """Selective checkpointing that saves the ops that the policy names, by their place in the forward."""
    from torch.utils.checkpoint import CheckpointPolicy, checkpoint, create_selective_checkpoint_contexts

    def contexts() -> Any:
        place = 0

        def policy(_context: Any, op: Any, *_args: Any, **_kwargs: Any) -> CheckpointPolicy:
            nonlocal place
            name = op._overloadpacket.__name__
            if place < len(ops) and ops[place] == name:
                place += 1
                return CheckpointPolicy.MUST_SAVE if saved[place - 1] else CheckpointPolicy.PREFER_RECOMPUTE
            return CheckpointPolicy.PREFER_RECOMPUTE

        return create_selective_checkpoint_contexts(policy)

    return lambda *args: checkpoint(forward, *args, use_reentrant=False, context_fn=contexts)


def traced(apply: Any = None) -> tuple[int, int]:
    """The true requested peak of two steps, and the nanoseconds of the second by the same roofline: the card's alone,
    for the host's would weigh their policies too."""
    from memgraph.api import predict
    from memgraph.gpu.specs import find
    from memgraph.plan.clock import step_time
    from memgraph.plan.cost import HostCosts, costs

    PREPARE[:] = [apply] if apply else []
    trace = predict(options())
    PREPARE.clear()
    return trace.peak.requested, step_time(trace, costs(find("h100"), HostCosts.of(0))(trace))


def main() -> None:
    found = against_sac_milp()
    print(table(found["rows"]), verdict(found["rows"]), sep="\n\n", end="\n\n", flush=True)
    compiled = peers_compiled.compared()
    print(peers_compiled.table(compiled), peers_compiled.verdict(compiled), sep="\n\n")
    if len(sys.argv) > 1:
        both = {"sac_milp": found, "activation_memory_budget": compiled}
        Path(sys.argv[1]).write_text(json.dumps(both, indent=1) + "\n")


def against_sac_milp() -> dict[str, Any]:
    """Peaks in bytes, recompute as a share of the step."""
    from memgraph.study.planner import Planner

    graph, stats = their_graph()
    planner = Planner(options(), 64 * GIB, host_call=0)
    planner._prepare()
    peak, time = traced()
    rows = []
    for share in SHARES:
        budget = int(share * peak)
        with contextlib.redirect_stdout(sys.stderr):
            found = theirs(graph, stats, budget)
        row: dict[str, Any] = {"budget": budget}
        if found is not None:
            true, spent = traced(found[1])
            row["theirs"] = {"promised": found[0], "peak": true, "recompute": (spent - time) / time}
        for name, limit in (("ours", budget), ("ours_at_their_peak", row.get("theirs", {}).get("peak"))):
            choice = planner.solver.cheapest(limit) if limit else None
            if choice is not None:
                point = planner._point(choice)
                row[name] = {"peak": point.peak.requested, "recompute": point.share}
        rows.append(row)
    return {"peak": peak, "rows": rows}


def table(rows: list[dict[str, Any]]) -> str:
    """A row a budget, in GiB."""
    from tabulate import tabulate

    kinds = ("theirs", "ours", "ours_at_their_peak")
    texts = [[f"{row['budget'] / GIB:.3f}", *(told(row.get(kind)) for kind in kinds)] for row in rows]
    headers = ("budget", "sac_milp: true peak, recompute", "ours", "ours at the peak of sac_milp's")
    return tabulate(texts, headers, tablefmt="github", disable_numparse=True)


def verdict(rows: list[dict[str, Any]]) -> str:
    """What the issue of the comparison is."""
    solved = [row for row in rows if "theirs" in row]
    over = sum(row["theirs"]["peak"] > row["budget"] for row in solved)
    ours_over = sum(row["ours"]["peak"] > row["budget"] for row in rows if "ours" in row)
    both = [row for row in solved if "ours_at_their_peak" in row]
    more = sum(row["ours_at_their_peak"]["recompute"] > row["theirs"]["recompute"] + 5e-4 for row in both)
    less = sum(row["ours_at_their_peak"]["recompute"] < row["theirs"]["recompute"] - 5e-4 for row in both)
    return (
        f"sac_milp: {len(solved)} plans, {over} above their budget; ours: {sum('ours' in row for row in rows)} plans, "
        f"{ours_over} above. At the peak theirs reached: ours recomputes less in {less} of {len(both)}, more in {more}."
    )


if __name__ == "__main__":
    main()
