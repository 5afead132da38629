"""Seconds and memory that a trace of millions of events takes: to be explained, written again and drawn.

    python -m benchmarks.speed.many_events [EVENTS [LAYERS]]

The trace is made up: steps of 250 layers, or as many as are asked for, six ops in the forward of each and twelve in its
backward, as a small model trained for long has them. The last column is the time beside that of `memgraph --version`,
the start of Python.
"""

from __future__ import annotations

import multiprocessing
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

from memgraph.errors import DoesNotFit
from memgraph.trace import Action, Buffer, Category, Event, Events, Op, Phase, TensorSpec, Trace

NAMES = ("mm", "gelu", "add", "view", "native_layer_norm", "t")
KEPT = (0, 1, 2, 4)
"""Ops of a layer that allocate, and whose result its backward needs."""
FIRST = 2**47
WEIGHT, RESULT, SHORT = 2**22, 2**24, 2**30
"""Bytes between the addresses of parameters, of results that are kept, and of temporaries: more than each has."""


class Made(NamedTuple):
    """A trace that is being made."""

    ops: list[Op]
    buffers: list[Buffer]
    events: Events
    phases: list[Phase]

    def alloc(self, size: int, op: int, category: Category, address: int, spec: TensorSpec, name: str = "") -> Event:
        block = -(-size // 512) * 512
        self.buffers.append(Buffer(size, op, category=category, name=name, shape=spec.shape, dtype=spec.dtype))
        event = Event(Action.ALLOC, len(self.buffers) - 1, op, address, block)
        self.events.append(event)
        return event

    def free(self, made: Event, op: int) -> None:
        self.events.append(made._replace(action=Action.FREE, op=op))

    def close(self, name: str, step: int) -> None:
        start = self.phases[-1].stop if self.phases else 0
        self.phases.append(Phase(name, step, start, len(self.events)))


def made(events: int, layers: int) -> Trace:
    """About so many events."""
    run = Made([], [], Events(), [])
    results = layers * len(KEPT) * RESULT
    run.events.append(Event(Action.SEGMENT_ALLOC, -1, -1, FIRST, layers * WEIGHT + results + 2 * SHORT))
    for layer in range(layers):
        spec = TensorSpec((768, 768 + layer % 7), "float32")
        run.alloc(spec.bytes, -1, Category.PARAMETER, FIRST + layer * WEIGHT, spec, f"net.blocks.{layer}.fc.weight")
    run.close("load", 0)
    step = 0
    while len(run.events) < events:
        step += 1
        one_step(run, step, layers)
    settings = {"model": "toy", "batch": 8, "seq": 512, "steps": step}
    return Trace("predicted", "h200", 140 * 2**30, "2.13.0", settings, tuple(run.ops), tuple(run.buffers), run.events,
                 tuple(run.phases))  # fmt: skip


def one_step(run: Made, step: int, layers: int) -> None:
    """A forward, a backward, an optimizer's step of one op."""
    kept: list[Event] = []
    for layer in range(layers):
        spec = TensorSpec((8, 512, 768 + layer % 5), "float32")
        for place, name in enumerate(NAMES):
            number = len(run.ops)
            reads = (number - 1,) if number else ()
            run.ops.append(Op(f"aten.{name}.default", len(run.phases), f"net.blocks.{layer}.part{place % 3}",
                              f"model.py:{90 + place}", (spec, spec), (spec,), -1, reads))  # fmt: skip
            if place in KEPT:
                address = FIRST + layers * WEIGHT + len(kept) * RESULT
                kept.append(run.alloc(spec.bytes, number, Category.ACTIVATION, address, spec))
    run.close("forward", step)
    for result in reversed(kept):
        backward(run, result, FIRST + layers * (WEIGHT + len(KEPT) * RESULT))
    run.close("backward", step)
    run.ops.append(Op("aten._foreach_mul_.Scalar", len(run.phases), "", "train.py:9", reads=(len(run.ops) - 1,)))
    run.close("optimizer", step)


def backward(run: Made, result: Event, free: int) -> None:
    """Three ops of a result, with two temporaries from an address on."""
    forward, number = run.ops[result.op], len(run.ops)
    for place in range(3):
        run.ops.append(forward._replace(name="aten.mul.Tensor", phase=len(run.phases), forward=result.op,
                                        reads=(number + place - 1, result.op)))  # fmt: skip
    spec = forward.outputs[0]
    half = TensorSpec(spec.shape, "float16")
    one = run.alloc(spec.bytes, number, Category.TEMPORARY, free, spec)
    two = run.alloc(half.bytes, number + 1, Category.TEMPORARY, free + SHORT, half)
    for event in (one, two, result):
        run.free(event, number + 2)


def measured(*words: str) -> float:
    """Seconds of one core that a command takes; printed with its memory."""
    start = time.perf_counter()
    done = subprocess.Popen([sys.executable, "-m", "memgraph", *words], stdout=subprocess.DEVNULL)
    _, status, used = os.wait4(done.pid, 0)
    assert os.waitstatus_to_exitcode(status) in (0, DoesNotFit.exit_code), words
    seconds = used.ru_utime + used.ru_stime
    print(f"{words[0]:10} {seconds:6.1f} s of a core, {time.perf_counter() - start:6.1f} s, "
          f"{used.ru_maxrss / 1024:6,.0f} MiB", end="")  # fmt: skip
    return seconds


def write(path: str, events: int, layers: int) -> None:
    """A process of its own makes it: what is measured is started by one that is small."""
    trace = made(events, layers)
    trace.save(path)
    print(f"{len(trace.events):,} events, {len(trace.ops):,} ops, {len(trace.buffers):,} buffers, "
          f"{Path(path).stat().st_size / 2**20:,.0f} MiB")  # fmt: skip


def main() -> None:
    events, layers = (*map(int, sys.argv[1:]), *(5_000_000, 250)[len(sys.argv) - 1 :])
    with tempfile.TemporaryDirectory() as folder:
        path, again, page = (str(Path(folder) / name) for name in ("run.memgraph", "again.memgraph", "run.html"))
        maker = multiprocessing.get_context("spawn").Process(target=write, args=(path, events, layers))
        maker.start()
        maker.join()
        base = measured("--version")
        print()
        for words in (("analyze", path), ("analyze", path, "-o", again), ("timeline", path, "-o", page)):
            print(f", {measured(*words) / base:,.0f} times the start; {' '.join(words[2:3])}")
        print(f"the page has {Path(page).stat().st_size / 2**20:,.0f} MiB")


if __name__ == "__main__":
    main()
