"""Record training steps on a real GPU, through torch's allocator history, for tests and docs/accuracy.md.

    python -m benchmarks.accuracy.record_runs OUT_FOLDER benchmarks/accuracy/runs.json [name ...]

Each case is a set of `memgraph.options.Options`; each runs in a process of its own and leaves `NAME.json.gz`: the
settings, torch's own statistics, and every allocator event as columns.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.recordings import packed as recordings
from memgraph.trace import Trace

ROOT = Path(__file__).resolve().parents[2]


def run(case: dict[str, Any], begin: Callable[[], None] = lambda: None) -> Trace:
    """Run one case here, under torch's allocator history.

    Args:
        begin: called once the history is kept, before the first step.
    """
    import torch

    from memgraph.capture.real.history import record_history
    from memgraph.capture.step import run_steps
    from memgraph.models.registry import resolve
    from memgraph.options import Options

    options = Options(**case)
    torch.manual_seed(0)
    job = resolve(options.model).build(options.set, options.batch, options.seq)
    with record_history({**options.settings(), **job.settings}) as history:
        begin()
        run_steps(job, options, history.mark, lambda *_: None)
    return history.trace


def record(case: dict[str, Any], path: Path) -> None:
    """Run one case here and write its recording."""
    recordings.write(path, recordings.as_columns(run(case)))


def main() -> None:
    folder, cases_file, *names = sys.argv[1:]
    cases = json.loads(Path(cases_file).read_text())
    for name in names or cases:
        path = Path(folder) / f"{name}.json.gz"
        if names and len(names) == 1:
            record(cases[name], path)
            continue
        command = [sys.executable, "-m", "benchmarks.accuracy.record_runs", folder, cases_file, name]
        result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
        print(name, "recorded" if result.returncode == 0 else result.stderr.strip().splitlines()[-1:], flush=True)


if __name__ == "__main__":
    main()
