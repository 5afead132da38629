"""Seconds and memory that `memgraph check` takes for two runs of a million events each, that differ here and there.

    python -m benchmarks.speed.check [EVENTS]

The runs are made up: steps of some 25,000 events that repeat, sizes like those of nanoVLM. The second differs in each
step by an allocation more, one less and one of another size.
"""

from __future__ import annotations

import random
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from memgraph.gpu.allocator.blocks import Block
from memgraph.gpu.allocator.caching import Allocator
from memgraph.trace import Action, Buffer, Event, Events, Op, Phase, Trace

STEP = 25_000
"""Events of a step."""
SIZES = (4, 512, 3072, 2**14, 2**20, 4_718_592, 12_582_912)
"""Bytes, about."""


Request = tuple[int, int]
"""A number, and the bytes that it asks for; 0 bytes free what that number got."""


def step_of(chance: random.Random) -> list[Request]:
    """Requests of a step, at whose end all is freed."""
    requests: list[Request] = []
    live: list[int] = []
    while len(requests) < STEP - len(live):
        if live and chance.random() < 0.45:
            requests.append((live.pop(chance.randrange(len(live))), 0))
        else:
            live.append(len(requests))
            requests.append((live[-1], chance.choice(SIZES) + 4 * chance.randrange(64)))
    return requests + [(number, 0) for number in live]


def altered(requests: list[Request], chance: random.Random) -> list[Request]:
    """With one allocation more that dies at once, one less, and one of another size."""
    sizes = [number for number, size in requests if size]
    less, other = chance.sample(sizes, 2)
    again = [(number, size + 512 * (number == other and size > 0)) for number, size in requests if number != less]
    more = chance.randrange(len(again))
    again[more:more] = [(-1, 777), (-1, 0)]
    return again


def trace_of(steps: list[list[Request]], origin: str) -> Trace:
    """The steps, one after the other, served by the allocator model. An op for every ten events."""
    events, buffers, phases, ops = Events(), list[Buffer](), list[Phase](), list[Op]()
    allocator = Allocator(2**60, torch=(2, 13))
    allocator.on_segment = lambda taken, address, size: events.append(
        Event(Action.SEGMENT_ALLOC if taken else Action.SEGMENT_FREE, -1, -1, address, size)
    )
    live: dict[int, tuple[int, Block]] = {}
    for step, requests in enumerate(steps):
        start = len(events)
        for place, (number, size) in enumerate(requests):
            if place % 10 == 0:
                ops.append(Op(f"aten.op{place % 70}.default", step, f"blocks.{place // 1000}"))
            if size:
                live[number] = len(buffers), allocator.malloc(size)
                buffer, block = live[number]
                events.append(Event(Action.ALLOC, buffer, len(ops) - 1, block.address, block.size))
                buffers.append(Buffer(size, len(ops) - 1))
            else:
                buffer, block = live.pop(number)
                events.append(Event(Action.FREE, buffer, len(ops) - 1, block.address, block.size))
                allocator.free(block)
        phases.append(Phase("step", step + 1, start, len(events)))
    return Trace(origin, "h200", 2**60, "2.13.0", {}, tuple(ops), tuple(buffers), events, tuple(phases))


def main() -> None:
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 1_000_000
    chance = random.Random(0)
    step = step_of(chance)
    with tempfile.TemporaryDirectory() as folder:
        paths = [Path(folder) / name for name in ("predicted.memgraph", "measured.memgraph")]
        trace_of([step] * -(-count // STEP), "predicted").save(paths[0])
        trace_of([altered(step, chance) for _ in range(-(-count // STEP))], "measured").save(paths[1])
        start = time.perf_counter()
        command = [sys.executable, "-m", "memgraph", "check", *map(str, paths)]
        done = subprocess.run(command, text=True, capture_output=True, check=False)
        seconds = time.perf_counter() - start
    print(done.stdout, done.stderr)
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    print(f"{count:,} events each: {seconds:.1f} s, {used.ru_utime + used.ru_stime:.1f} s of them on a processor, "
          f"{used.ru_maxrss / 1024:,.0f} MiB at most")  # fmt: skip


if __name__ == "__main__":
    main()
