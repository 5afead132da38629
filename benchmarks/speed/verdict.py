"""What the verdict and the causes cost, as a share of the trace that they are of: in one process, in turn.

    python -m benchmarks.speed.verdict [RUN...]   # nanoVLM, resnet50 of torchvision and a Llama, two or three steps of
                                                  # each; twelve steps of forty layers

Counting what an op makes for Python's collector, with its collections, and looking for who holds what at the ends of
steps are in the trace's time: they are told against runs that do not. A look takes some tenths of a second at most,
whatever the run: a large share of a run of one second only.
"""

from __future__ import annotations

import contextlib
import math
import sys
import time
from collections.abc import Callable, Iterator
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

_TIMES = 5


def seconds(run: Callable[[], object]) -> float:
    start = time.process_time()
    run()
    return time.process_time() - start


def nanovlm() -> Trace:
    return predict(Options(gpu="rtx3090", batch=8, seq=128))


def llama() -> Trace:
    """Of transformers, 16 layers."""
    from transformers import LlamaConfig, LlamaForCausalLM

    with memgraph.virtual_gpu("h100") as gpu:
        net = LlamaForCausalLM(LlamaConfig(hidden_size=1024, intermediate_size=2816, num_hidden_layers=16)).cuda()
        trained(net, 2, lambda: net(torch.zeros(2, 1024, dtype=torch.long, device="cuda")).logits)
    return gpu.trace


def resnet50() -> Trace:
    import torchvision

    with memgraph.virtual_gpu("h100") as gpu:
        net = torchvision.models.resnet50().cuda()
        trained(net, 3, lambda: net(torch.randn(16, 3, 224, 224, device="cuda")))
    return gpu.trace


def layers() -> Trace:
    """Twelve steps of forty layers."""
    with memgraph.virtual_gpu("rtx3090") as gpu:
        net = nn.Sequential(*(nn.Linear(256, 256) for _ in range(40))).cuda()
        trained(net, 12, lambda: net(torch.randn(64, 256, device="cuda")))
    return gpu.trace


def trained(net: nn.Module, times: int, forward: Callable[[], torch.Tensor]) -> None:
    update = torch.optim.AdamW(net.parameters())
    for _ in range(times):
        forward().sum().backward()
        update.step()
        update.zero_grad()


def judged(trace: Trace) -> None:
    findings(trace)
    steps(trace)


@contextlib.contextmanager
def without(owner: type, *names: str) -> Iterator[None]:
    """While open, these methods do nothing."""
    kept = {name: getattr(owner, name) for name in names}
    for name in names:
        setattr(owner, name, lambda *_: None)
    try:
        yield
    finally:
        for name, method in kept.items():
            setattr(owner, name, method)


WAYS: dict[str, Callable[[], contextlib.AbstractContextManager[None]]] = {
    "whole": contextlib.nullcontext,
    "counting for the collector": partial(without, Collecting, "begins", "ends"),
    "looking for holders": partial(without, Keeping, "ended"),
}
RUNS = {run.__name__: run for run in (nanovlm, resnet50, llama, layers)}


def in_turn(run: Callable[[], Trace]) -> dict[str, float]:
    """The least seconds of each way to trace a run, one after the other, so that other work meets all of them, and of
    what is told of it."""
    trace = run()  # imports, and what is remembered of ops
    took = dict.fromkeys((*WAYS, "told"), math.inf)
    for _ in range(_TIMES):
        for name, way in WAYS.items():
            with way():
                took[name] = min(took[name], seconds(run))
        took["told"] = min(took["told"], seconds(partial(judged, replace(trace))))
    return took


def main() -> None:
    """Print each share."""
    for name in sys.argv[1:] or RUNS:
        took = in_turn(RUNS[name])
        whole, told = took.pop("whole"), took.pop("told")
        parts = {"verdict and causes": told, **{part: whole - rest for part, rest in took.items()}}
        shares = ", ".join(f"{part} {100 * spent / whole:.1f} %" for part, spent in parts.items())
        print(f"{name}: traced in {whole:.2f} s; {shares}", flush=True)


if __name__ == "__main__":
    main()
