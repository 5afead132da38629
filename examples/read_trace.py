"""Save a prediction, load it, and ask it questions that no command answers.

python examples/read_trace.py
"""

from __future__ import annotations

import tempfile
from collections import Counter
from pathlib import Path

import memgraph
from memgraph.options import Options
from memgraph.units import format_bytes


def main() -> None:
    small = {"vit_n_blocks": "2", "lm_n_blocks": "2"}
    trace = memgraph.predict(Options(batch=4, seq=256, gpu="rtx3090", set=small))
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "step.memgraph"
        trace.save(path)
        trace = memgraph.load(path)

    born: Counter[str] = Counter()
    for buffer in trace.buffers:
        phase = trace.phases[trace.ops[buffer.op].phase].name if buffer.op >= 0 else "outside"
        born[phase] += buffer.size
    for phase, size in born.most_common():
        print(f"{phase:10} allocates {format_bytes(size)} in all")

    short = sum(life.stop - life.start <= 4 for life in trace.lives)
    print(f"{short} of {len(trace.buffers)} buffers live for at most four events")


if __name__ == "__main__":
    main()
