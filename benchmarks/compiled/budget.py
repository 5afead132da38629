"""What torch's `activation_memory_budget` does to the true peak of a compiled step, at each setting.

python -m benchmarks.compiled.budget [MODEL BATCH SEQ]     default: benchmarks.compiled.models:decoder 8 512
"""

from __future__ import annotations

import sys

from tabulate import tabulate

from memgraph.analyze.compilation import saved_bytes
from memgraph.api import predict
from memgraph.options import Options

BUDGETS = (1.0, 0.8, 0.6, 0.4, 0.2, 0.0)


def row(model: str, batch: int, seq: int, budget: float) -> tuple[str, ...]:
    """One setting, predicted. MiB."""
    options = Options(
        model=model, batch=batch, seq=seq, gpu="h200", compile="default", activation_memory_budget=budget
    )  # fmt: skip
    trace = predict(options)
    made = trace.compilation
    saved, again = (saved_bytes(made), sum(count for _, count in made.recomputed)) if made else (0, 0)
    sizes = (saved, trace.peak.requested, trace.peak.reserved)
    return (f"{budget:g}", *(f"{size / 2**20:,.1f}" for size in sizes), f"{again}", trace.peak.phase)


def main() -> None:
    model, batch, seq = sys.argv[1:4] or ("benchmarks.compiled.models:decoder", "8", "512")
    headers = ("budget", "saved", "peak requested", "peak reserved", "ops computed again", "peak in the")
    rows = [row(model, int(batch), int(seq), budget) for budget in BUDGETS]
    print(tabulate(rows, headers, tablefmt="github", disable_numparse=True))


if __name__ == "__main__":
    main()
