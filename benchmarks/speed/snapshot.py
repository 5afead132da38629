"""Seconds and memory that a snapshot of PyTorch takes to read.

    python -m benchmarks.speed.snapshot [MiB [STACKS]]

The file is made up, as torch.cuda.memory._dump_snapshot of torch 2.11 writes one: entries have a text of their own and
a stack of twenty frames in a list of its own, but for what completes a free; the frames are shared. A program has some
thousand different stacks, which is what is made by default; 0 makes each another. It is written operation by operation,
because to make one of a GiB with Python's pickler takes ten times as much memory.
"""

from __future__ import annotations

import pickle
import random
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

KEYS = ("action", "addr", "size", "stream", "time_us", "compile_context", "frames", "segments", "device_traces")
ACTIONS = ("alloc", "free_requested", "free_completed", "segment_alloc")
FRAMES = 3000
DEPTH = 20
STACKS = 5000


class Written:
    """The operations of a pickle, and how many things it remembers so far."""

    def __init__(self) -> None:
        self.count = 0
        self.names: dict[str, bytes] = {}

    def again(self, place: int) -> bytes:
        return b"h" + bytes([place]) if place < 256 else b"j" + place.to_bytes(4, "little")

    def known(self, text: str) -> bytes:
        """A text that is remembered and taken off the stack again."""
        self.names[text] = self.again(self.count)
        self.count += 1
        return b"\x8c" + bytes([len(text)]) + text.encode() + b"\x940"

    def start(self) -> bytes:
        return b"\x80\x04" + b"".join(map(self.known, KEYS + ACTIONS))

    def frames(self) -> bytes:
        """Dictionaries, taken off the stack again."""
        self.first = self.count
        self.count += FRAMES
        return b"".join(
            b"}\x94(" + _plain({"name": f"f{n}", "filename": f"/me/train{n % 9}.py", "line": n}) + b"u0"
            for n in range(FRAMES)
        )

    def entry(self, action: str, address: int, size: int, stack: list[int]) -> bytes:
        """With an empty stack the list is that of the entry before."""
        names = self.names
        frames = b"]\x94(" + b"".join(self.again(self.first + n) for n in stack) + b"e"
        if not stack:
            frames = self.again(self.count - 1)
        self.count += 2 + bool(stack)
        return b"".join(
            (b"}\x94(", names["action"], names[action], names["addr"], _number(address), names["size"], _number(size),
             names["stream"], b"K\x00", names["time_us"], _number(1_700_000_000_000_000),
             names["compile_context"], b"\x8c\x03N/A\x94", names["frames"], frames, b"u")
        )  # fmt: skip


def _number(value: int) -> bytes:
    return pickle.dumps(value, 2)[2:-1]


def _plain(values: dict[str, object]) -> bytes:
    return b"".join(pickle.dumps(part, 2)[2:-1].replace(b"q\x00", b"") for pair in values.items() for part in pair)


def pieces(size: int, stacks: int = STACKS) -> Iterator[bytes]:
    """A snapshot of about so many bytes, with so many different stacks, or each another."""
    chance, out, live, done = random.Random(0), Written(), list[tuple[int, int]](), 0
    some = [[chance.randrange(FRAMES) for _ in range(DEPTH)] for _ in range(stacks)]
    yield out.start()
    yield out.frames()
    yield b"}(" + out.names["segments"] + b"]" + out.names["device_traces"] + b"](]"
    first = 2**46
    yield b"(" + out.entry("segment_alloc", first, 2**36, [0]) + b"e"
    address = first
    while done < size:
        batch = []
        while len(batch) < 999:
            stack = chance.choice(some) if some else [chance.randrange(FRAMES) for _ in range(DEPTH)]
            if len(live) > 500 or (live and chance.random() < 0.4):
                gone, wanted = live.pop(chance.randrange(len(live)))
                batch.append(out.entry("free_requested", gone, wanted, stack))
                batch.append(out.entry("free_completed", gone, wanted, []))
            else:
                wanted = chance.choice((512, 4096, 2**20))
                live.append((address, wanted))
                batch.append(out.entry("alloc", address, wanted, stack))
                address = first + (address + 2**20 - first) % 2**36
        yield b"(" + b"".join(batch) + b"e"
        done += sum(map(len, batch))
    yield b"eu."


READ = """
import resource, sys, time
from memgraph.files.any_file import load
start = time.perf_counter()
trace = load(sys.argv[1])
seconds = time.perf_counter() - start
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
print(f"{len(trace.events):,} events, {len(trace.buffers):,} allocations: {seconds:.1f} s, "
      f"{time.process_time():.1f} s of them on a processor, {peak:,.0f} MiB at most")
"""


def main() -> None:
    size = int(sys.argv[1]) if len(sys.argv) > 1 else 1024
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "snapshot.pickle"
        with path.open("wb") as file:
            file.writelines(pieces(size * 2**20, *map(int, sys.argv[2:])))
        if size <= 16:
            pickle.loads(path.read_bytes())
        print(f"{path.stat().st_size / 2**20:,.0f} MiB")
        subprocess.run([sys.executable, "-c", READ, str(path)], check=True)


if __name__ == "__main__":
    main()
