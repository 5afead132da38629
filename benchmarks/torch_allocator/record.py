"""Ask the caching allocators of several torch versions themselves, without a GPU, and write down what they did:
`tests/data/allocator_of_torch.json.gz`.

    python -m benchmarks.torch_allocator.record OUT.json.gz CUDA_INCLUDE TORCH...

TORCH is an installed or unpacked `torch` folder of a CUDA build, one for each version; only `lib/libc10*.so` and
`include/` are used. CUDA_INCLUDE holds `cuda_runtime_api.h`. A few hundred random requests, frees and emptied caches
are put to `libc10_cuda.so` for each of the settings below; the card under it (`card.cpp`) only counts.
"""

from __future__ import annotations

import gzip
import json
import os
import random
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

HERE = Path(__file__).parent
MIB = 2**20
SETTINGS = (  # PYTORCH_CUDA_ALLOC_CONF and the share that the process is allowed
    ("", None), ("", 0.8), ("max_split_size_mb:20", None), ("max_split_size_mb:32,max_non_split_rounding_mb:25", None),
    ("roundup_power2_divisions:4", None), ("roundup_power2_divisions:[4:2,16:8,>:1]", None),
    ("roundup_power2_divisions:[2:2,8:8]", None), ("large_segment_size_mb:30", None),
    ("large_segment_size_mb:12,max_split_size_mb:12", None), ("per_process_memory_fraction:0.7", None),
    ("garbage_collection_threshold:0.6", None), ("garbage_collection_threshold:0.4", 0.9),
    ("garbage_collection_threshold:0.3,max_split_size_mb:24", 1.0), ("expandable_segments:True", None),
    ("expandable_segments:True,roundup_power2_divisions:4", None), ("expandable_segments:True", 0.8),
    ("expandable_segments:True,max_split_size_mb:32", None),
    ("expandable_segments:True,garbage_collection_threshold:0.5", 0.9),
)  # fmt: skip
CARDS = ((1000, 1), (400, 2), (150, 1), (150, 2))
"""MiB, and the streams that ask."""
LENGTH = 250
USED = 3 * 2**29
"""What NVML says of the process, in bytes."""


class Case(NamedTuple):
    """What is asked of which allocator."""

    settings: str
    fraction: float | None
    card: tuple[int, int]
    even: bool = False
    """Whether all sizes are multiples of 5 MiB, so that many free blocks are equal."""


def cases() -> Iterator[Case]:
    """Each setting on one card; expandable segments, which have the most rules, on all."""
    for number, (settings, fraction) in enumerate(SETTINGS):
        cards = CARDS if settings == "expandable_segments:True" else (CARDS[-1 - number % len(CARDS)],)
        for card in cards:
            yield Case(settings, fraction, card)
    for settings in ("", "expandable_segments:True"):
        for card in CARDS[:2]:
            yield Case(settings, None, card, even=True)


def requests(seed: int, streams: int, even: bool) -> str:
    """Random calls, as `drive.cpp` reads them; 52 of 100 ask for memory."""
    draw, live, asked, calls = random.Random(seed), list[int](), 0, list[str]()
    for _ in range(LENGTH):
        if not live or draw.random() < 0.52:
            size = 5 * MIB * draw.randint(1, 4) if even else _size(draw)
            calls.append(f"a {size} {draw.randrange(streams)}")
            live.append(asked)
            asked += 1
        elif draw.random() < 0.97:
            calls.append(f"f {live.pop(draw.randrange(len(live)))}")
        else:
            calls.append("e")
    return " ".join(calls)


def _size(draw: random.Random) -> int:
    """Small, around the border of small, large, or one of a few sizes that come again."""
    kind = draw.random()
    if kind < 0.3:
        return draw.randint(1, 4096)
    if kind < 0.5:
        return draw.randint(1, MIB + 2000)
    if kind < 0.8:
        return draw.randint(MIB, 12 * MIB)
    return draw.choice((20, 24, 30, 32, 33, 40, 60, 75)) * MIB + draw.choice((0, 0, 1, -5, 600_000))


class Torch:
    """The allocator of one torch version, built for asking."""

    def __init__(self, folder: Path, cuda: Path, build: Path) -> None:
        self.version = re.sub(r"(\d+\.\d+).*", r"\1", _version(folder))
        self._program, self._card = build / f"drive-{self.version}", build / "card.so"
        self._libraries = f"{build}:{folder / 'lib'}:{os.environ.get('LD_LIBRARY_PATH', '')}"
        include = [f"-I{folder / 'include'}", f"-I{cuda}"]
        link = [f"-L{folder / 'lib'}", "-lc10", "-lc10_cuda", f"-Wl,-rpath,{folder / 'lib'}"]
        allow = ["-Wl,--allow-shlib-undefined"]
        _run("g++", "-std=c++20", "-O1", *include, str(HERE / "drive.cpp"), "-o", str(self._program), *link, *allow)
        _run("g++", "-O1", "-fPIC", "-shared", *include, str(HERE / "card.cpp"), "-o", str(self._card))
        _run("gcc", "-fPIC", "-shared", str(HERE / "nvml.c"), "-o", str(build / "libnvidia-ml.so.1"))

    def ask(self, calls: str, settings: str, capacity: int, fraction: float | None) -> tuple[list[list[int]], str]:
        """What each call did, and the last refusal's message."""
        environment = {
            **os.environ, "PYTORCH_CUDA_ALLOC_CONF": settings, "CAPACITY": str(capacity), "USED": str(USED),
            "LD_PRELOAD": str(self._card), "LD_LIBRARY_PATH": self._libraries,
        }  # fmt: skip
        if fraction is not None:
            environment["FRACTION"] = str(fraction)
        done = subprocess.run([self._program], input=calls, text=True, capture_output=True, env=environment, check=True)
        refusals = [line for line in done.stderr.splitlines() if line.startswith("CUDA out of memory")]
        rows = [list(map(int, line.split())) for line in done.stdout.splitlines()]
        return [list(column) for column in zip(*rows, strict=True)], refusals[-1] if refusals else ""


def _version(folder: Path) -> str:
    """From `version.py`, or else the name of the folder that holds it: `2.12.0/torch`."""
    path = folder / "version.py"
    found = re.search(r"__version__ = '([^']+)'", path.read_text()) if path.exists() else None
    return found[1] if found else folder.parent.name


def _run(*command: str) -> None:
    subprocess.run(command, check=True)


def record(torches: list[Torch]) -> list[dict[str, Any]]:
    """All settings on all cards; versions that did the same are written once."""
    runs = []
    for seed, case in enumerate(cases()):
        mib, streams = case.card
        calls = requests(seed, streams, case.even)
        answers: dict[str, Any] = {}
        for torch in torches:
            columns, refusal = torch.ask(calls, case.settings, mib * MIB, case.fraction)
            same = next((key for key, value in answers.items() if value == (columns, refusal)), None)
            key = torch.version if same is None else f"{same} {torch.version}"
            answers.pop(same, None)
            answers[key] = (columns, refusal)
        facts = {"settings": case.settings, "capacity": mib * MIB, "fraction": case.fraction}
        runs.append({**facts, "calls": calls, "did": answers})
    return runs


def main() -> None:
    target, cuda, *folders = map(Path, sys.argv[1:])
    with tempfile.TemporaryDirectory() as build:
        runs = record([Torch(folder.resolve(), cuda, Path(build)) for folder in folders])
    columns = ("address", "allocated", "reserved", "num_ooms", "num_alloc_retries")
    data = {"columns": columns, "used": USED, "runs": runs}
    target.write_bytes(gzip.compress(json.dumps(data, separators=(",", ":")).encode(), 9, mtime=0))
    for run in runs:
        print(run["settings"] or "defaults", run["fraction"] or "", "—", " | ".join(run["did"]))


if __name__ == "__main__":
    main()
