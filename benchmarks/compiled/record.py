"""Record compiled training steps on a real GPU, through torch's allocator history.

    python -m benchmarks.compiled.record OUT_FOLDER [name ...]

The cases are those of `benchmarks/compiled/runs.json`; each runs in a process of its own with an empty compile cache,
all at once. `NAME.json.gz` is as record_runs.py writes it, with what the compiler measured on the card: which
allocations were those of benchmarks, which products it padded, how many configurations of each kernel it tried.
`NAME.wrappers.txt.gz` is the code that Inductor generated.
"""

from __future__ import annotations

import gzip
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.accuracy.record_runs import run
from benchmarks.recordings import packed as recordings

ROOT = Path(__file__).resolve().parents[2]
CASES = Path(__file__).with_name("runs.json")


class Watch:
    """What the compiler measures on the card, and when, in allocations made since the start."""

    def __init__(self) -> None:
        self._base = 0
        self.benchmarks: list[tuple[int, int]] = []
        self.padded: list[dict[str, Any]] = []
        self.kernels: dict[str, dict[str, Any]] = {}

    def start(self) -> None:
        """Follow the compiler from here on."""
        from torch._inductor.fx_passes import pad_mm
        from torch._inductor.runtime import benchmarking, triton_heuristics

        self._base = allocations()
        kind = type(benchmarking.benchmarker)
        kind.benchmark_gpu = self._timed(kind.benchmark_gpu)
        pad_mm.is_padded_faster = self._padding(pad_mm.is_padded_faster)
        tuner = triton_heuristics.CachingAutotuner
        tuner.benchmark_all_configs = self._tuning(tuner.benchmark_all_configs)

    def _timed(self, original: Callable[..., Any]) -> Callable[..., Any]:
        def benchmark(*args: Any, **kwargs: Any) -> Any:
            start = allocations() - self._base
            try:
                return original(*args, **kwargs)
            finally:
                self.benchmarks.append((start, allocations() - self._base))

        return benchmark

    def _padding(self, original: Callable[..., Any]) -> Callable[..., Any]:
        def is_padded_faster(key: str, plain: float, padded: float) -> bool:
            answer = original(key, plain, padded)
            self.padded.append({"key": key, "plain": plain, "padded": padded, "answer": answer})
            return answer

        return is_padded_faster

    def _tuning(self, original: Callable[..., Any]) -> Callable[..., Any]:
        def benchmark_all_configs(tuner: Any, *args: Any, **kwargs: Any) -> Any:
            timings = original(tuner, *args, **kwargs)
            self.kernels[str(tuner.inductor_meta.get("kernel_name"))] = {
                "configs": len(tuner.configs or ()), "timed": len(timings),
                "spilled": [str(launcher.config) for launcher, time in timings.items() if time == float("inf")],
                "mutated": list(tuner.mutated_arg_names), "ms": list(timings.values()),
            }  # fmt: skip
            return timings

        return benchmark_all_configs


def allocations() -> int:
    """How many allocations torch's allocator has made."""
    import torch

    return int(torch.cuda.memory_stats().get("allocation.all.allocated", 0))


def record(case: dict[str, Any], folder: Path, name: str) -> None:
    """Run one case here and write its recording, and the code that Inductor made of it."""
    watch = Watch()
    columns = recordings.as_columns(run(case, watch.start))
    measured = {"benchmarks": watch.benchmarks, "padded": watch.padded, "kernels": watch.kernels}
    recordings.write(folder / f"{name}.json.gz", {**columns, **measured})
    (folder / f"{name}.wrappers.txt.gz").write_bytes(gzip.compress(wrappers().encode(), 9))


def wrappers() -> str:
    """The code that Inductor generated for each graph, in the order of their compilation."""
    from torch._inductor.codecache import PyCodeCache

    files = dict.fromkeys(module.__file__ for module in PyCodeCache.modules if hasattr(module, "call"))
    return "\n\n".join(f"##### {number}\n{Path(file).read_text()}" for number, file in enumerate(files))


def main() -> None:
    folder, names = Path(sys.argv[1]), sys.argv[2:]
    cases = json.loads(CASES.read_text())
    if len(names) == 2 and names[0] == "--here":
        record(cases[names[1]], folder, names[1])
        return
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as caches:
        running = {name: _start(folder, name, f"{caches}/{name}") for name in names or cases}
        for name, process in running.items():
            error = process.communicate()[1].decode().strip().splitlines()
            print(name, "recorded" if process.returncode == 0 else error[-12:], flush=True)


def _start(folder: Path, name: str, cache: str) -> subprocess.Popen[bytes]:
    caches = {"TORCHINDUCTOR_CACHE_DIR": cache, "TRITON_CACHE_DIR": f"{cache}/triton"}
    environment = {**os.environ, **caches, "TORCHINDUCTOR_COMPILE_THREADS": "4"}
    command = [sys.executable, "-m", "benchmarks.compiled.record", str(folder), "--here", name]
    return subprocess.Popen(command, cwd=ROOT, env=environment, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL)


if __name__ == "__main__":
    main()
