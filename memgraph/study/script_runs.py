"""A script run again, in a process of its own, with what is changed of it."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence
from typing import NamedTuple

from memgraph import children
from memgraph.plan.plan_file import Plan
from memgraph.temporary import temporary_folder
from memgraph.trace import Trace
from memgraph.trace.trace_file import load


class Script(NamedTuple):
    """A script and where it runs."""

    target: str
    arguments: tuple[str, ...]
    module: bool
    gpu: str | None
    memory: int | None
    alloc_conf: str | None
    torch: str | None
    steps: int
    """Optimizer steps after which it is ended."""
    fraction: float = 1.0
    """Of their bound that sizes which depend on data are taken to be."""
    patience: float | None = None
    """Seconds after which a run is given up; None for never."""


def ran(script: Script, changes: Sequence[str] = (), plan: Plan | None = None, *, go_on: bool = False) -> Trace | None:
    """The script's trace; None if it failed for another reason than memory, or took too long.

    Args:
        changes: by the names of `memgraph run --change`.
        plan: what of its model is computed again.
        go_on: where the card is full, as if it were larger.
    """
    with temporary_folder() as folder:
        path, planned = folder / "run.memgraph", folder / "plan.json"
        if plan is not None:
            plan.save(planned)
        command = [
            sys.executable, "-m", "memgraph", "run", "--format", "none", "-o", str(path), "--steps", str(script.steps),
            *(("--gpu", script.gpu) if script.gpu else ()),
            *(("--memory", str(script.memory)) if script.memory else ()),
            *(("--alloc-conf", script.alloc_conf) if script.alloc_conf else ()),
            *(("--torch", script.torch) if script.torch else ()),
            *(("--select", str(script.fraction)) if script.fraction != 1 else ()),
            *(("--go-on",) if go_on else ()), *(("--plan", str(planned)) if plan is not None else ()),
            *(part for name in changes for part in ("--change", name)),
            *(("-m",) if script.module else ()), script.target, *script.arguments,
        ]  # fmt: skip
        try:
            done = children.run(command, stdin=b"", seconds=script.patience)
        except subprocess.TimeoutExpired:
            return None
        if not path.exists():
            return None
        trace = load(path)
    return trace if done.returncode == 0 or not trace.fits else None
