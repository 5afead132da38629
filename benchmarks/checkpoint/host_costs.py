"""What eager PyTorch costs on the host, in itself: nanoVLM so small that nothing else takes time.

    python -m benchmarks.checkpoint.host_costs          # on the GPU if there is one, else on the processor

All of the model's 42 blocks run, a few numbers wide, so that a step is as many calls as at full size and hardly any
work. Four steps give three prices: unchecked, with every block of the decoder recomputed, the same as pairs, and with
every block under a selective policy. How many calls of each kind a step has is counted in its trace and kept in
`host_counts.json` (`--count` writes it), for a machine that only measures.
"""

from __future__ import annotations

import gc
import json
import sys
import time
from pathlib import Path
from typing import Any

COUNTS = Path(__file__).with_name("plans") / "measured" / "host_counts.json"
TINY = {
    "lm_hidden_dim": "72", "lm_inter_dim": "72", "vit_hidden_dim": "96", "vit_inter_dim": "96",
    "lm_base_vocab_size": "100", "vit_img_size": "64",
}  # fmt: skip
SEQ = 16
_STEPS = 6
"""Of each kind, taken in turn; the fastest counts."""


def plans() -> dict[str, Any]:
    """The steps that are compared."""
    from memgraph.plan.plan_file import Plan, Region

    blocks = [f"decoder.blocks.{place}" for place in range(30)]
    return {
        "unchecked": Plan(),
        "recomputed": Plan(tuple(Region((block,)) for block in blocks)),
        "pairs": Plan(tuple(Region(pair) for pair in zip(blocks[::2], blocks[1::2], strict=True))),
        "selective": Plan(tuple(Region((block,), "linears") for block in blocks)),
    }


def count() -> dict[str, dict[str, int]]:
    """By step: its calls, the tensors that recomputations bring back, and the calls under a policy."""
    from memgraph.options import Options
    from memgraph.plan.cost import base_name, recomputed, under_policy
    from memgraph.study.workers import traced

    found = {}
    for name, plan in plans().items():
        text = plan.text if plan.regions else "none"
        trace = traced(Options(batch=1, seq=SEQ, gpu="h200", set=TINY, checkpoint=text))[0]
        passes = [op for op in trace.ops if trace.phases[op.phase][:2] in (("forward", 2), ("backward", 2))]
        under = under_policy(trace)
        found[name] = {
            "calls": len(passes), "saved": sum(base_name(op) == "detach" and recomputed(trace, op) for op in passes),
            "policy": sum(map(under, passes)),
        }  # fmt: skip
    return found


def measure() -> dict[str, float]:
    """Nanoseconds of a call, of a tensor brought back, and of a call's policy; and what they were found from."""
    import torch

    from memgraph.models.registry import resolve

    device = "cuda" if torch.cuda.is_available() else "cpu"
    torch.set_num_threads(1)
    torch.manual_seed(0)
    job: Any = resolve("nanovlm-222m").build(TINY, 1, SEQ)
    model = job.model().train().to(device)
    inputs = {name: value.to(device) for name, value in job.inputs().items()}
    best = dict.fromkeys(plans(), float("inf"))
    for _ in range(_STEPS):
        gc.collect()
        for name, plan in plans().items():
            best[name] = min(best[name], _fastest_of_two(model, inputs, job.forward, plan, device))
    return prices(best, json.loads(COUNTS.read_text()))


def _fastest_of_two(model: Any, inputs: Any, forward: Any, plan: Any, device: str) -> float:
    """Seconds of a forward and a backward. On the processor the thread's own, which others do not lengthen."""
    import torch

    from memgraph.plan.apply import apply_plan

    clock = time.thread_time if device == "cpu" else time.perf_counter
    times = []
    with apply_plan(model, plan):
        for _ in range(2):
            model.zero_grad(set_to_none=True)
            _wait(device)
            start = clock()
            with torch.autocast(device, torch.bfloat16):
                loss = forward(model, inputs)[1]
            loss.backward()
            _wait(device)
            times.append(clock() - start)
    return min(times)


def _wait(device: str) -> None:
    import torch

    if device == "cuda":
        torch.cuda.synchronize()


def prices(best: dict[str, float], counts: dict[str, dict[str, int]]) -> dict[str, float]:
    """Three unknowns one after another, from three steps; the fourth says how well they carry over."""
    call = best["unchecked"] / counts["unchecked"]["calls"]
    saved = (best["recomputed"] - call * counts["recomputed"]["calls"]) / counts["recomputed"]["saved"]
    selective = counts["selective"]
    policy = (best["selective"] - call * selective["calls"] - saved * selective["saved"]) / selective["policy"]
    pairs = call * counts["pairs"]["calls"] + saved * counts["pairs"]["saved"]
    return {
        "call": 1e9 * call, "saved": 1e9 * saved, "policy": 1e9 * policy,
        "saved_in_calls": saved / call, "policy_in_calls": policy / call,
        "pairs_measured_by_foreseen": best["pairs"] / pairs,
        **{f"{name}_ms": 1e3 * value for name, value in best.items()},
    }  # fmt: skip


def main() -> None:
    if "--count" in sys.argv[1:]:
        COUNTS.parent.mkdir(parents=True, exist_ok=True)
        COUNTS.write_text(json.dumps(count(), indent=1) + "\n")
    print(json.dumps(measure(), indent=1))


if __name__ == "__main__":
    main()
