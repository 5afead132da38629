"""What a training step costs through the allocator hook, against a plain one, on the GPU that is there.

    python benchmarks/hook_speed.py

nanoVLM-222M, batch 8, seq 512: the faster half of fifteen steps, three processes of each, one after the other.
"""

from __future__ import annotations

import itertools
import subprocess
import sys
import tempfile
import time
from pathlib import Path


def step(hooked: bool, log: Path) -> tuple[float, int]:
    """Seconds of a step, and how often the hook called cudaMalloc."""
    import torch

    from memgraph.capture import hook
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


def main() -> None:
    if len(sys.argv) > 1:
        print(*step(sys.argv[1] == "hook", Path(sys.argv[2])))
        return
    best = {"plain": (9e9, 0), "hook": (9e9, 0)}
    with tempfile.TemporaryDirectory() as folder:
        for _ in range(3):
            for name in best:
                command = [sys.executable, __file__, name, f"{folder}/log"]
                seconds, taken = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()
                best[name] = min(best[name], (float(seconds), int(taken)))
    (plain, _), (hooked, taken) = best.values()
    print(f"plain {plain:.4f} s, hook {hooked:.4f} s: {hooked / plain:.2f} x; cudaMalloc was called {taken} times")


if __name__ == "__main__":
    main()
