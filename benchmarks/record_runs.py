"""Record training steps on a real GPU, through torch's allocator history, for tests and docs/accuracy.md.

    python benchmarks/record_runs.py OUT_FOLDER benchmarks/runs.json [name ...]

Each case is a set of `memgraph.options.Options`; each runs in a process of its own and leaves `NAME.json.gz`: the
settings, torch's own statistics, and every allocator event as columns.
"""

from __future__ import annotations

import gzip
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent


def record(case: dict[str, Any], path: Path) -> None:
    """Run one case here and write its recording."""
    import torch

    from memgraph.capture.history import record_history
    from memgraph.capture.step import run_steps
    from memgraph.models.registry import resolve
    from memgraph.options import Options

    options = Options(**case)
    torch.manual_seed(0)
    job = resolve(options.model).build(options.set, options.batch, options.seq)
    with record_history({**options.settings(), **job.settings}) as history:
        run_steps(job, options, history.mark, lambda *_: None)
    trace = history.trace
    data = {
        "settings": dict(trace.settings), "gpu": trace.gpu, "torch": trace.torch, "phases": [list(p) for p in
        trace.phases], "actions": trace.events.columns[0].tolist(), "buffers": trace.events.columns[1].tolist(),
        "addresses": trace.events.columns[3].tolist(), "sizes": trace.events.columns[4].tolist(),
        "requested": [buffer.size for buffer in trace.buffers],
    }  # fmt: skip
    path.write_bytes(gzip.compress(json.dumps(data, separators=(",", ":")).encode(), 9))


def main() -> None:
    folder, cases_file, *names = sys.argv[1:]
    cases = json.loads(Path(cases_file).read_text())
    for name in names or cases:
        path = Path(folder) / f"{name}.json.gz"
        if names and len(names) == 1:
            record(cases[name], path)
            continue
        result = subprocess.run(
            [sys.executable, __file__, folder, cases_file, name], cwd=ROOT, capture_output=True, text=True, check=False
        )
        print(name, "recorded" if result.returncode == 0 else result.stderr.strip().splitlines()[-1:], flush=True)


if __name__ == "__main__":
    sys.path.insert(0, str(ROOT))
    main()
