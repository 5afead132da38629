"""What a training step costs through the allocator hook, against a plain one, on the GPU that is there.

    python -m benchmarks.speed.hook [--json] [--rounds 3]

nanoVLM-222M, batch 8, seq 512: the faster half of fifteen steps, some processes of each, one after the other.
"""

from __future__ import annotations

import argparse
import itertools
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def step(hooked: bool, log: Path) -> tuple[float, int]:
    """Seconds of a step, and how often the hook called cudaMalloc."""
    import torch

    from memgraph.capture.real import hook
    from memgraph.capture.step import run_steps
    from memgraph.models.registry import resolve
    from memgraph.options import Options

    if hooked:
        hook.open_log(log)
        hook.install()
    times: list[float] = []

    def mark(phase: str) -> None:
        if phase == "input":
            torch.cuda.synchronize()
            times.append(time.perf_counter())

    options = Options(batch=8, seq=512, steps=16)
    run_steps(resolve(options.model).build({}, 8, 512), options, mark, lambda *_: None)
    steps = sorted(later - before for before, later in itertools.pairwise(times))[:8]
    return sum(steps) / len(steps), hook.library().memgraph_hook_taken() if hooked else 0


def measured(rounds: int) -> dict[str, float]:
    """The best of each, seconds."""
    best = {"plain": (9e9, 0), "hook": (9e9, 0)}
    with tempfile.TemporaryDirectory() as folder:
        for _ in range(rounds):
            for name in best:
                command = [sys.executable, "-m", "benchmarks.speed.hook", "--step", name, f"{folder}/log"]
                done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
                seconds, taken = done.stdout.split()
                best[name] = min(best[name], (float(seconds), int(taken)))
    (plain, _), (hooked, taken) = best.values()
    return {"plain": plain, "hook": hooked, "ratio": hooked / plain, "calls of cudaMalloc": taken}


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--step", nargs=2, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.step:
        print(*step(given.step[0] == "hook", Path(given.step[1])))
        return
    found = measured(given.rounds)
    if given.json:
        print(json.dumps(found))
        return
    print(f"plain {found['plain']:.4f} s, hook {found['hook']:.4f} s: {found['ratio']:.2f} x; cudaMalloc was called "
          f"{found['calls of cudaMalloc']} times")  # fmt: skip


if __name__ == "__main__":
    main()
