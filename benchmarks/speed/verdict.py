"""What the verdict and the causes cost, as a share of the trace that they are of: in one process, one after the other.

    python -m benchmarks.speed.verdict            # nanoVLM, two steps; twelve steps of forty layers

Counting what an op makes for Python's collector, with its collections, and looking for who holds what at the ends of
steps are in the trace's time: they are told against runs that do not. A look takes some tenths of a second at most,
whatever the run: a large share of a run of one second only.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial

import torch
from torch import nn

import memgraph
from memgraph.analyze.findings import findings
from memgraph.analyze.steps import steps
from memgraph.api import predict
from memgraph.capture.collecting import Collecting
from memgraph.capture.keeping import Keeping
from memgraph.options import Options
from memgraph.trace import Trace

_TIMES = 3


def seconds(run: Callable[[], object]) -> float:
    start = time.process_time()
    run()
    return time.process_time() - start


def nanovlm() -> Trace:
    return predict(Options(gpu="rtx3090", batch=8, seq=128))


def layers() -> Trace:
    """Twelve steps of forty layers."""
    with memgraph.virtual_gpu("rtx3090") as gpu:
        net = nn.Sequential(*(nn.Linear(256, 256) for _ in range(40))).cuda()
        update = torch.optim.AdamW(net.parameters())
        for _ in range(12):
            net(torch.randn(64, 256, device="cuda")).sum().backward()
            update.step()
            update.zero_grad()
    return gpu.trace


def without(owner: type, names: Sequence[str], run: Callable[[], object]) -> float:
    """Seconds of a run in which these methods do nothing."""
    kept = {name: getattr(owner, name) for name in names}
    for name in names:
        setattr(owner, name, lambda *_: None)
    try:
        return best(run)
    finally:
        for name, method in kept.items():
            setattr(owner, name, method)


def judged(trace: Trace) -> None:
    findings(trace)
    steps(trace)


def best(run: Callable[[], object]) -> float:
    return min(seconds(run) for _ in range(_TIMES))


def main() -> None:
    """Print each ratio."""
    for run in (nanovlm, layers):
        trace = run()  # imports, and what is remembered of ops
        traced = best(run)
        told = min(seconds(partial(judged, replace(trace))) for _ in range(_TIMES))
        counted = traced - without(Collecting, ("begins", "ends"), run)
        looked = traced - without(Keeping, ("ended",), run)
        parts = (("verdict and causes", told), ("counting for the collector", counted), ("looking for holders", looked))
        print(f"{run.__name__}: traced in {traced:.2f} s; "
              f"{', '.join(f'{name} {100 * part / traced:.1f} %' for name, part in parts)}", flush=True)  # fmt: skip


if __name__ == "__main__":
    main()
