"""Everything that only a machine with a GPU can show, in one run of some two minutes.

    python -m benchmarks.accuracy.on_gpu OUT_FOLDER           there: a file of what each part said, and summary.json
    python -m benchmarks.accuracy.on_gpu --take OUT_FOLDER    here: its recordings and its snapshot into the repository

Parts run side by side, each in processes of its own; what takes most of the card, and what is timed, runs alone. A part
that fails does not stop the others. Nothing but torch and what memgraph depends on is needed, and pytest.
"""

from __future__ import annotations

import gzip
import json
import os
import shutil
import signal
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from benchmarks.recordings import packed as recordings
from memgraph.trace import Action

ROOT = Path(__file__).resolve().parents[2]
SIDE_BY_SIDE = 6
CORNERS = (
    "b1_s1024", "b1_s128_sgd_fp32_checkpoint", "b64_s128_fp32_checkpoint", "b16_s256_sgd_checkpoint",
    "b16_s512_fp32_checkpoint", "m460_b1_s128_fp32_sgd", "m460_b16_s512", "m460_b8_s1024_fp32_checkpoint",
)  # fmt: skip
"""Cases of runs.json that are recorded again: the ends of what is varied."""
IN_PAIRS = (
    "b64_s512", "b32_s512_sgd_fp32", "b64_s1024_sgd_checkpoint", "b16_s1024_fp32", "m460_b64_s512_sgd_checkpoint",
)  # fmt: skip
"""Recordings that take tens of GiB, any two of them less than an H200 has."""
ALONE = ("b64_s1024",)
"""115 GiB."""
CAP = "23.7GiB"
TESTS = (
    "the_prediction", "hook_and_history", "small_card and history", "small_card and hook", "catch", "killed",
    "script_is",
)  # fmt: skip

Found = dict[str, Any]


class Bench:
    """Runs commands and keeps what they said."""

    def __init__(self, out: Path) -> None:
        self.out = out
        self.work = out / "work"
        self.work.mkdir(parents=True, exist_ok=True)
        self.summary: Found = {}

    def run(self, name: str, *command: str, hidden: bool = False, limit: int = 150) -> subprocess.CompletedProcess[str]:
        """One command; what it said is in OUT/NAME.txt."""
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])}
        if hidden:
            environment["CUDA_VISIBLE_DEVICES"] = ""
        done = subprocess.run(
            [sys.executable, *command], cwd=ROOT, env=environment, text=True, capture_output=True, check=False,
            timeout=limit,
        )  # fmt: skip
        text = f"$ {' '.join(command)}\n{done.stdout}\n{done.stderr}\nexit code {done.returncode}\n"
        (self.out / f"{name}.txt").write_text(text)
        return done

    def memgraph(self, name: str, *words: str, hidden: bool = False) -> subprocess.CompletedProcess[str]:
        return self.run(name, "-m", "memgraph", *words, hidden=hidden)

    def path(self, name: str) -> str:
        return str(self.work / name)

    def part(self, name: str, job: Callable[[Bench], Found]) -> None:
        """Do a part, and write down what it found or why it did not."""
        start = time.perf_counter()
        try:
            found = job(self)
        except Exception as error:
            found = {"failed": f"{type(error).__name__}: {error}", "where": traceback.format_exc()[-1500:]}
        self.summary[name] = {**found, "seconds": round(time.perf_counter() - start, 1)}
        print(name, json.dumps(self.summary[name])[:300], flush=True)
        (self.out / "summary.json").write_text(json.dumps(self.summary, indent=1))


def pytest_part(words: str) -> Callable[[Bench], Found]:
    def job(bench: Bench) -> Found:
        name = f"pytest_{words.replace(' ', '_')}"
        own = ["-m", "pytest", "-p", "no:cacheprovider", "-m", "gpu", "-k", words, "tests/capture/real/test_on_gpu.py"]
        done = bench.run(name, *own)
        return {"exit": done.returncode, "said": done.stdout.strip().splitlines()[-1:]}

    return job


def peaks(bench: Bench) -> Found:
    """The hook's requested peak, and the native allocator's, on the same step."""
    import memgraph

    path = bench.path("both.memgraph")
    run = ["--batch", "8", "--seq", "128"]
    bench.memgraph("record_both", "record", "--via", "both", "--ops", *run, "-o", path, "--force")
    trace = memgraph.load(path)
    native = trace.settings["statistics"]["end"]["requested.peak"]
    hook = trace.settings["hook"]
    return {
        "hook": hook, "native requested peak": native, "to the byte": hook["requested"] == native,
        "allocations": len(trace.buffers), "notes": trace.assumptions,
        "allocations with an op": sum(buffer.op >= 0 for buffer in trace.buffers),
    }  # fmt: skip


def small_card(bench: Bench) -> Found:
    """Batch 32 at 512 on 23.7 GiB: where it is refused, predicted and measured twice."""
    import memgraph

    run = ["--batch", "32", "--seq", "512"]
    path = bench.path("small_predicted.memgraph")
    there = ["--gpu", "h200", "--memory", CAP, "-o", path, "--force"]
    bench.memgraph("small_predicted", "analyze", *run, *there, hidden=True)
    found = {"predicted": refusal(memgraph.load(path))}
    for via in ("history", "hook"):
        real = bench.path(f"small_{via}.memgraph")
        bench.memgraph(f"small_{via}", "record", *run, "--via", via, "--cap", CAP, "-o", real, "--force")
        found[via] = refusal(memgraph.load(real))
        bench.memgraph(f"small_check_{via}", "check", path, real)
    found["the same"] = found["predicted"][:2] == found["history"][:2] == found["hook"][:2]
    return found


def refusal(trace: Any) -> list[Any]:
    """How many allocations there were before the one that was refused, its bytes, and its op."""
    actions = trace.events.columns[0]
    if Action.OUT_OF_MEMORY not in actions:
        return [None, None, ""]
    place = actions.index(Action.OUT_OF_MEMORY)
    op = trace.op_at(place)
    return [sum(a == Action.ALLOC for a in actions[:place]), trace.events[place].size, op.name if op else ""]


def a_check(bench: Bench) -> Found:
    """Batch 8 at 512: predicted here with the GPU hidden, recorded both ways, and checked."""
    run = ["--batch", "8", "--seq", "512"]
    path = bench.path("predicted.memgraph")
    bench.memgraph("predicted", "analyze", *run, "--gpu", "h200", "-o", path, "--force", hidden=True)
    found: Found = {}
    for via, more in (("history", []), ("hook", ["--ops"])):
        real = bench.path(f"real_{via}.memgraph")
        bench.memgraph(f"record_{via}", "record", *run, "--via", via, *more, "-o", real, "--force")
        bench.memgraph(f"check_{via}", "check", path, real)
        data = json.loads(bench.memgraph(f"check_{via}_json", "check", path, real, "--format", "json").stdout)
        found[via] = {name: data[name] for name in ("predicted", "measured", "matched", "lifetimes", "peak")}
    return found


def a_snapshot(bench: Bench) -> Found:
    """PyTorch's own snapshot of a tiny script, and the prediction of that script."""
    script = "benchmarks/accuracy/tiny.py"
    pickle, path = bench.out / "snapshot_h200.pickle", bench.path("tiny.memgraph")
    bench.run("tiny", script, str(pickle))
    bench.memgraph("tiny_predicted", "run", "--gpu", "h200", "-o", path, "--force", script, hidden=True)
    data = json.loads(bench.memgraph("tiny_check", "check", path, str(pickle), "--format", "json").stdout)
    return {"bytes": pickle.stat().st_size, **{name: data[name] for name in ("predicted", "measured", "matched")}}


def speed(bench: Bench) -> Found:
    """What the hook costs."""
    done = bench.run("hook_speed", "-m", "benchmarks.speed.hook", "--json", "--rounds", "2")
    return dict(json.loads(done.stdout))


def recording(name: str) -> Callable[[Bench], Found]:
    """One run for docs/accuracy.md, packed, and whether the allocator model puts every block where PyTorch did."""

    def job(bench: Bench) -> Found:
        command = ("-m", "benchmarks.accuracy.record_runs", str(bench.work), "benchmarks/accuracy/runs.json", name)
        bench.run(f"recording_{name}", *command)
        run = json.loads(gzip.decompress((bench.work / f"{name}.json.gz").read_bytes()))
        packed = recordings.pack(run)
        folder = bench.out / "recordings"
        folder.mkdir(exist_ok=True)
        recordings.write(folder / f"{name}.json.gz", packed)
        placed = recordings.unpack(packed).events
        real = [a for a, action in zip(run["addresses"], run["actions"], strict=True) if action == Action.ALLOC]
        own = [event.address for event in placed if event.action is Action.ALLOC]
        same = sum(a == b for a, b in zip(real, own, strict=True))
        return {"allocations": len(real), "addresses the same": same}

    return job


def warm(bench: Bench) -> Found:
    """The libraries that are compiled on first use, before many want them at once."""
    code = "import torch; from memgraph.capture.real.hook import library; library(); print(torch.__version__)"
    done = bench.run("warm_hook", "-c", f"{code}; print(torch.cuda.get_device_name())")
    small = ["--batch", "1", "--seq", "128", "--set", "lm_n_blocks=1"]
    bench.memgraph("warm_predict", "analyze", *small, hidden=True)
    return {"exit": done.returncode, "on": done.stdout.splitlines()}


def measure(out: Path) -> None:
    bench = Bench(out)
    os.environ.setdefault("MEMGRAPH_CACHE", str(bench.work / "cache"))
    bench.part("warm", warm)
    together: list[tuple[str, Callable[[Bench], Found]]] = [
        ("small card", small_card), ("check", a_check), ("peaks", peaks), ("snapshot", a_snapshot),
        *((f"pytest {words}", pytest_part(words)) for words in TESTS),
        *((f"recording {name}", recording(name)) for name in CORNERS),
    ]  # fmt: skip
    pairs = [(f"recording {name}", recording(name)) for name in IN_PAIRS]
    alone = [("speed", speed), *((f"recording {name}", recording(name)) for name in ALONE)]
    for parts, at_once in ((together, SIDE_BY_SIDE), (pairs, 2), (alone, 1)):
        with ThreadPoolExecutor(at_once) as pool:
            list(pool.map(lambda part: bench.part(*part), parts))
    shutil.rmtree(bench.work, ignore_errors=True)


def take(out: Path) -> None:
    """Recordings and the snapshot into the repository."""
    for path in sorted((out / "recordings").glob("*.json.gz")):
        shutil.copyfile(path, recordings.FOLDER / path.name)
        print(path.name)
    shutil.copyfile(out / "snapshot_h200.pickle", ROOT / "tests" / "data" / "snapshot_h200.pickle")


def main(words: Sequence[str]) -> None:
    if len(words) == 2 and words[0] == "--take":
        take(Path(words[1]))
    elif len(words) == 1:
        signal.signal(signal.SIGTERM, signal.default_int_handler)
        measure(Path(words[0]).resolve())
    else:
        sys.exit(__doc__)


if __name__ == "__main__":
    main(sys.argv[1:])
