"""What is told of ordinary programs, in which nothing is wrong: nothing that they do not have.

    python -m benchmarks.accuracy.quiet                 # all: workloads, presets, examples, programs
    python -m benchmarks.accuracy.quiet gan adapters    # some of them

Prints a line for each program: what was found, and whether all of it is known to be so (`KNOWN`). Exits with 1 if
anything else was told.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

from benchmarks.accuracy.quiet_programs import NAMES
from benchmarks.workloads.loops import ROOT, WORKLOADS, trace_of
from memgraph.analyze.findings import findings
from memgraph.api import load, predict
from memgraph.options import Options
from memgraph.trace import Trace

KNOWN: dict[str, tuple[str, ...]] = {
    **dict.fromkeys(("decoder", "llama", "adapters", "ragged", "bert", "scan", "measure_vram.py"), ("logits-in-fp32",)),
    "gru": ("recurrent-reserve",),
    "t5": ("attention-by-steps",),
    **dict.fromkeys(("recommender", "nanovlm-222m", "nanovlm-222m blocks"), ("foreach-temporaries",)),
}
"""What is so: logits with their copies in fp32 are 35 to 71 % of these peaks, foreach's temporaries 20 to 38 %, what
cuDNN keeps of a GRU 156 MiB; T5 of transformers 5.17 took the math path on an H200 too."""
PRESETS = {
    "nanovlm-222m": Options(gpu="rtx3090", batch=2, seq=128),
    "nanovlm-222m blocks": Options(gpu="rtx3090", batch=2, seq=128, checkpoint="blocks"),
    "nanovlm-460m": Options(model="nanovlm-460m", gpu="a100-40gb", batch=2),
}
SCRIPTS = ("measure_vram.py",)
"""Of the examples, those that train on one card."""


def _script(*script: str) -> Trace:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "run.memgraph"
        command = [sys.executable, "-m", "memgraph", "run", "--format", "none", "-o", str(path), *script]
        subprocess.run(command, cwd=ROOT, capture_output=True, check=False)
        return load(path)


PROGRAMS: dict[str, Callable[[], Trace]] = {
    **{name: lambda name=name: trace_of(name) for name in WORKLOADS},  # type: ignore[misc]
    **{name: lambda options=options: predict(options) for name, options in PRESETS.items()},  # type: ignore[misc]
    **{name: lambda name=name: _script(f"examples/{name}") for name in SCRIPTS},  # type: ignore[misc]
    **{name: lambda name=name: _script("benchmarks/accuracy/quiet_programs.py", name) for name in NAMES},  # type: ignore[misc]
}


def told(name: str) -> list[str]:
    """What is told of a program, beyond what is known to be so."""
    return [f"{one.name}: {one.what}" for one in findings(PROGRAMS[name]()) if one.name not in KNOWN.get(name, ())]


def main() -> None:
    """Run those that are named, or all."""
    wrong = 0
    for name in sys.argv[1:] or PROGRAMS:
        try:
            rows = told(name)
        except Exception as error:  # one that cannot run here is not one that is told something
            print(f"{name}: not run: {type(error).__name__}: {str(error)[:100]}", flush=True)
            continue
        wrong += bool(rows)
        print(f"{name}: {'; '.join(rows) or 'quiet'}", flush=True)
    sys.exit(bool(wrong))


if __name__ == "__main__":
    main()
