"""What a whole script takes under `memgraph run`, as a ratio to the same script on CPU torch: `python -m
benchmarks.speed.scripts`. The scripts are of tiny sizes, so that on the CPU too most of the time is Python's."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

SCRIPTS = Path(__file__).parents[2] / "field" / "scripts"
NAMES = ("ppo", "plain_loop")
"""Those that take the device that is there."""


def seconds(command: list[str]) -> float:
    """Of one run; the better of two."""

    def once() -> float:
        start = time.perf_counter()
        subprocess.run(command, cwd=SCRIPTS, check=True, capture_output=True)
        return time.perf_counter() - start

    return min(once(), once())


def main() -> None:
    """A line for each script."""
    for name in NAMES:
        plain = seconds([sys.executable, f"{name}.py"])
        virtual = seconds([sys.executable, "-m", "memgraph", "run", "--gpu", "h200", "--format", "none", f"{name}.py"])
        print(f"{name:12} {plain:6.1f} s on the CPU, {virtual:6.1f} s on the virtual GPU: {virtual / plain:.1f} x")


if __name__ == "__main__":
    main()
