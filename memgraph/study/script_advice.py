"""What would make a script fit: it is run again, in a process of its own, with each change that can be made without its
help."""

from __future__ import annotations

import re
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

from memgraph.analyze.causes import causes
from memgraph.analyze.remedies import Remedy, ScriptAdvised, helps
from memgraph.errors import MemgraphError
from memgraph.study.run import Progress
from memgraph.trace import Trace
from memgraph.trace.trace_file import load

_BATCH = re.compile(r"(?:^|[-_.])(?:batch(?:[-_]?size)?|bs|bsz)(?:$|[-_.=])", re.IGNORECASE)
_CODE = {
    "expandable": "PYTORCH_CUDA_ALLOC_CONF=expandable_segments:True",
    "fused": "AdamW(model.parameters(), fused=True)",
    "no-foreach": "AdamW(model.parameters(), foreach=False)",
    "no-cache": "model.config.use_cache = False",
    "checkpoint": "x = torch.utils.checkpoint.checkpoint(block, x, use_reentrant=False)",
    "no-autocast": "torch.autocast(..., enabled=False)",
    "no-grad": "with torch.no_grad(): ...",
}
"""What to write for each change."""


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


def advise_script(script: Script, progress: Progress | None = None) -> ScriptAdvised:
    """Run the script as it is and with each change.

    Raises:
        MemgraphError: it fails, and not for want of memory.
    """
    now = _ran(script, ())
    if now is None:
        raise MemgraphError(f"{script.target} fails by itself: see `memgraph run {script.target}`")
    rows: list[Remedy] = []
    for name in _applicable(now):
        if progress is not None:
            progress(f"with {name}", len(rows), None)
        found = _ran(*_changed(script, name))
        if found is not None and helps(found, now):
            rows.append(Remedy(name, _CODE[name], found))
    rows += _smaller(script, now, progress)
    return ScriptAdvised(now, tuple(sorted(rows, key=lambda row: (not row.trace.fits, row.trace.peak.reserved))))


def _applicable(now: Trace) -> list[str]:
    trains = any(phase.name in ("backward", "optimizer") for phase in now.phases)
    if not trains:
        return ["expandable", "no-grad"]
    copies = any(one.name == "autocast-copies" for one in causes(now))
    return ["expandable", "fused", "no-foreach", "no-cache", "checkpoint", *(["no-autocast"] if copies else [])]


def _changed(script: Script, name: str) -> tuple[Script, tuple[str, ...]]:
    if name != "expandable":
        return script, ("--change", name)
    parts = [part for part in (script.alloc_conf, "expandable_segments:True") if part]
    return script._replace(alloc_conf=",".join(parts)), ()


# A smaller batch.


def batch_argument(arguments: Sequence[str]) -> tuple[int, str, int] | None:
    """The argument that names the batch: its place, what stands before its number, and the number; None if there is
    none."""
    for place, argument in enumerate(arguments):
        name, equals, value = argument.partition("=")
        if not _BATCH.search(name):
            continue
        if equals and value.isdigit():
            return place, f"{name}=", int(value)
        if not equals and place + 1 < len(arguments) and arguments[place + 1].isdigit():
            return place + 1, "", int(arguments[place + 1])
    return None


def _smaller(script: Script, now: Trace, progress: Progress | None) -> list[Remedy]:
    """The largest smaller batch that fits, by bisection of the argument that names it."""
    found = batch_argument(script.arguments)
    if found is None or now.fits:
        return []
    place, prefix, size = found

    def at(batch: int) -> Trace | None:
        if progress is not None:
            progress(f"with a batch of {batch}", 0, None)
        arguments = [*script.arguments[:place], f"{prefix}{batch}", *script.arguments[place + 1 :]]
        return _ran(script._replace(arguments=tuple(arguments)), ())

    best = largest(size - 1, lambda batch: (trace := at(batch)) is not None and trace.fits)
    trace = at(best) if best else None
    flag = prefix or f"{script.arguments[place - 1]} "
    return [Remedy(f"batch {best}", f"{flag}{best}", trace)] if trace is not None else []


def largest(most: int, fits: Callable[[int], bool]) -> int:
    """The largest number up to `most` that fits, 0 if 1 does not."""
    low, high = 0, most
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if fits(middle) else (low, middle - 1)
    return low


def _ran(script: Script, more: Sequence[str]) -> Trace | None:
    """The script's trace; None if it failed for another reason than memory."""
    with tempfile.TemporaryDirectory(prefix="memgraph-") as folder:
        path = Path(folder) / "run.memgraph"
        command = [
            sys.executable, "-m", "memgraph", "run", "--format", "none", "-o", str(path), "--steps", str(script.steps),
            *(("--gpu", script.gpu) if script.gpu else ()),
            *(("--memory", str(script.memory)) if script.memory else ()),
            *(("--alloc-conf", script.alloc_conf) if script.alloc_conf else ()),
            *(("--torch", script.torch) if script.torch else ()),
            *more, *(("-m",) if script.module else ()), script.target, *script.arguments,
        ]  # fmt: skip
        done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, check=False)
        if not path.exists():
            return None
        trace = load(path)
    return trace if done.returncode == 0 or not trace.fits else None
