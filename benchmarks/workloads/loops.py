"""Ordinary training loops of many kinds, each a function that runs some steps on `cuda`: real or virtual alike.

    python -m benchmarks.workloads.loops record FOLDER [name ...]     on a real GPU
    python -m benchmarks.workloads.loops predict [name ...]           against benchmarks/recordings/workloads

None of them was looked at while the rules were written. Public libraries' models are built from configurations alone.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import torch

from benchmarks.recordings import packed as recordings
from benchmarks.recordings.compared import Compared, matched
from benchmarks.workloads.language import LANGUAGE
from benchmarks.workloads.other import OTHER
from benchmarks.workloads.vision import VISION
from memgraph.trace import Trace

ROOT = Path(__file__).resolve().parents[2]
FOLDER = recordings.FOLDER.with_name("workloads")
WORKLOADS: dict[str, Callable[[], None]] = {run.__name__: run for run in (*VISION, *LANGUAGE, *OTHER)}
SELECTED = {"mixtral": 0.125}
"""Where sizes depend on data, the share of their bound. Two of eight experts a token: an eighth of the pairs."""


@dataclass(frozen=True, kw_only=True)
class Row(Compared):
    """A recorded workload."""

    name: str
    what: str
    """Its docstring."""
    notes: tuple[str, ...]
    """What the prediction lists as assumed, and ops that it does not know."""


def record(name: str, folder: Path) -> None:
    """Run one on the GPU that is there and write what its allocator did."""
    from memgraph.capture.real.history import record_history

    torch.manual_seed(0)
    with record_history({"workload": name}) as history:
        WORKLOADS[name]()
        torch.cuda.synchronize()
    recordings.write(folder / f"{name}.json.gz", recordings.pack(recordings.as_columns(history.trace)))


def record_all(names: list[str], folder: Path, at_once: int = 4) -> None:
    """Each in a process of its own; several at once share the card, and nothing of their allocators."""
    folder.mkdir(parents=True, exist_ok=True)

    def run(name: str) -> str:
        command = [sys.executable, "-m", "benchmarks.workloads.loops", "record", str(folder), name]
        result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
        return "recorded" if result.returncode == 0 else " ".join(result.stderr.strip().splitlines()[-1:])

    with ThreadPoolExecutor(at_once) as pool:
        for name, outcome in zip(names, pool.map(run, names), strict=True):
            print(name, outcome, flush=True)


def trace_of(name: str, release: str | None = None) -> Trace:
    """One on a virtual H200, as on another release of torch if it is given."""
    import memgraph

    torch.manual_seed(0)
    with memgraph.virtual_gpu("h200", select=SELECTED.get(name, 1.0), torch=release, workload=name) as gpu:
        WORKLOADS[name]()
    gpu.trace.self_check()
    return gpu.trace


def recorded() -> list[str]:
    """Those of which there is a recording."""
    return sorted(path.name.removesuffix(".json.gz") for path in FOLDER.glob("*.json.gz"))


def compare(name: str) -> Row:
    """One on a virtual H200, beside its recording."""
    predicted, measured = trace_of(name), recordings.read(FOLDER / f"{name}.json.gz")
    _, peak = recordings.allocated_by(predicted, measured.torch)
    return Row(
        name=name,
        what=" ".join((WORKLOADS[name].__doc__ or "").split()).rstrip("."),
        matched=matched([b.size for b in predicted.buffers], [b.size for b in measured.buffers]),
        allocations=len(measured.buffers),
        predicted=tuple(peak),
        measured=tuple(measured.peak[:3]),
        notes=notes(predicted),
    )


def notes(trace: Trace) -> tuple[str, ...]:
    """What is assumed in a prediction, and the ops that it does not know."""
    return (*trace.assumptions, *(f"unknown: {op}" for op in trace.unknown_ops))


def predict(name: str) -> tuple[str, ...]:
    """How far a prediction is off, or what it is where no recording is there."""
    if name not in recorded():
        trace = trace_of(name)
        return (str(trace.peak[:3]), *notes(trace))
    row = compare(name)
    return (f"{row.matched}/{row.allocations}", *row.errors, *row.notes)


def main() -> None:
    command, *rest = sys.argv[1:]
    if command == "record":
        folder, *names = rest
        if len(names) == 1:
            record(names[0], Path(folder))
        else:
            record_all(names or list(WORKLOADS), Path(folder))
        return
    for name in rest or WORKLOADS:
        print(name, *predict(name), flush=True)


if __name__ == "__main__":
    main()
