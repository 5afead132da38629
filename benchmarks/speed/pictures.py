"""How long each kind of picture of nanoVLM's two steps takes, and how large it is.

    python -m benchmarks.speed.pictures

From a saved trace, batch 8, seq 512, best of three, the whole command with the start of Python.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from pathlib import Path

KINDS = ("svg", "html", "pickle", "json", "dot", "png")


def seconds(command: list[str]) -> float:
    """The shortest of three."""
    times = []
    for _ in range(3):
        start = time.perf_counter()
        subprocess.run(command, check=True)
        times.append(time.perf_counter() - start)
    return min(times)


def main() -> None:
    memgraph = [sys.executable, "-m", "memgraph"]
    with tempfile.TemporaryDirectory() as folder:
        trace = f"{folder}/step.memgraph"
        subprocess.run([*memgraph, "analyze", "--seq", "512", "-o", trace], check=True, stdout=subprocess.DEVNULL)
        start = seconds([*memgraph, "--version"])
        print(f"{'--version':10} {start:6.2f} s")
        for kind in KINDS:
            path = Path(f"{folder}/step.{kind}")
            taken = seconds([*memgraph, "timeline", trace, "-o", str(path), "--force"])
            print(f"{kind:10} {taken:6.2f} s   {path.stat().st_size / 2**20:6.2f} MiB")


if __name__ == "__main__":
    main()
