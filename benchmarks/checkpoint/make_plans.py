"""Make the plans that `measured.py` measures: nanoVLM-222M on an H200, from traces, without one.

    python -m benchmarks.checkpoint.make_plans          # writes benchmarks/checkpoint/plans/*.json

Two plans for a budget, and five points of the curve of batch 32 from nearly nothing recomputed to the least memory.
"""

from __future__ import annotations

from contextlib import closing
from pathlib import Path

from memgraph.options import Options
from memgraph.study.planner import Planner
from memgraph.study.workers import Workers

FOLDER = Path(__file__).with_name("plans")
GIB = 2**30
BUDGETS = {
    "b8_s512_6gib": (8, 512, 6 * GIB), "b32_s512_24gib": (32, 512, 24 * GIB), "b64_s1024_40gib": (64, 1024, 40 * GIB)
}  # fmt: skip
POINTS = 5


def main() -> None:
    FOLDER.mkdir(exist_ok=True)
    for name, (batch, seq, budget) in BUDGETS.items():
        with closing(Workers()) as workers:
            found = Planner(Options(batch=batch, seq=seq, gpu="h200"), budget, workers=workers).cheapest()
        assert found.best is not None
        found.saved(found.best).save(FOLDER / f"{name}.json", force=True)
        print(name, found.best.peak, found.best.predicted, round(found.best.share, 4), flush=True)
    with closing(Workers()) as workers:
        found = Planner(Options(batch=32, seq=512, gpu="h200"), workers=workers).pareto(POINTS)
    for number, point in enumerate(found.curve[1:], 1):
        found.saved(point).save(FOLDER / f"curve_{number}.json", force=True)
        print("curve", number, point.peak, point.predicted, round(point.share, 4), flush=True)


if __name__ == "__main__":
    main()
