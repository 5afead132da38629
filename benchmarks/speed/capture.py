"""How fast capture is, side by side in one run.

    python -m benchmarks.speed.capture            all
    python -m benchmarks.speed.capture --quick    without torch's MemTracker, which takes a minute

Each figure is taken in a process of its own, best of three, on nanoVLM-222M, batch 8, seq 512, two steps:
- bare: the same two steps under torch's own FakeTensorMode over the same virtual device, nothing written down;
- capture: the same under memgraph, the trace made;
- MemTracker: torch's tracker on fake CPU tensors; the rotary embedding's branch on a value is taken out for it.
"""

from __future__ import annotations

import contextlib
import os
import resource
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
OPTIONS: dict[str, Any] = {"batch": 8, "seq": 512, "gpu": "rtx3090"}


def bare() -> float:
    """Seconds for the steps under FakeTensorMode over the virtual device."""
    from torch._subclasses.fake_tensor import FakeTensorMode

    from memgraph.capture.session import VirtualGpu

    class Bare(FakeTensorMode):
        """FakeTensorMode, which answers on top of the recorder's switched-off ear."""

        avoid_device_init = True

    with VirtualGpu("rtx3090") as gpu:
        gpu.recorder.__exit__(None, None, None)
        try:
            with Bare(allow_non_fake_inputs=True), without_rotary_branch():
                return steps(gpu.mark)
        finally:
            gpu.recorder.__enter__()


def capture() -> float:
    """Seconds for the steps under the recorder, and for making the trace."""
    from memgraph.capture.session import VirtualGpu

    with VirtualGpu("rtx3090", fake_everywhere=True) as gpu:
        seconds = steps(gpu.mark)
        start = time.perf_counter()
        assert gpu.trace.buffers
        return seconds + time.perf_counter() - start


def memtracker() -> float:
    """Seconds for the steps under torch's MemTracker, on fake CPU tensors."""
    import torch
    from torch._subclasses.fake_tensor import FakeTensorMode
    from torch.distributed._tools.mem_tracker import MemTracker

    from memgraph.models.registry import resolve

    with FakeTensorMode(), without_rotary_branch():
        job = resolve("nanovlm-222m").build({}, 8, 512)
        model = job.model()
        optimizer = torch.optim.AdamW(model.parameters(), foreach=True)
        inputs = dict(job.inputs())
        tracker = MemTracker()
        tracker.track_external(model, optimizer)
        start = time.perf_counter()
        with tracker:
            for _ in range(2):
                optimizer.zero_grad(set_to_none=True)
                with torch.autocast("cpu", torch.bfloat16):
                    _, loss = job.forward(model, inputs)
                loss.backward()
                optimizer.step()
                tracker.reset_mod_stats()  # it refuses a second step otherwise
        return time.perf_counter() - start


def steps(mark: Callable[[str], None], **more: Any) -> float:
    """Seconds for building the model and two steps."""
    from memgraph.capture.step import run_steps
    from memgraph.models.registry import resolve
    from memgraph.options import Options

    options = Options(**OPTIONS, **more)
    start = time.perf_counter()
    job = resolve(options.model).build(options.set, options.batch, options.seq)
    run_steps(job, options, mark, lambda *_: None)
    return time.perf_counter() - start


@contextlib.contextmanager
def without_rotary_branch() -> Iterator[None]:
    """FakeTensorMode alone cannot answer `positions.max() + 1 > limit`: `bool()` of a fake tensor is False here."""
    from torch._subclasses.fake_tensor import FakeTensor

    FakeTensor.__bool__ = lambda _self: False  # type: ignore[attr-defined]
    try:
        yield
    finally:
        del FakeTensor.__bool__  # type: ignore[attr-defined]


def per_op() -> str:
    """Microseconds an op at 6, 15, 30 and 60 decoder blocks."""
    from memgraph.capture.session import VirtualGpu

    cells = []
    for blocks in (6, 15, 30, 60):
        with VirtualGpu("rtx3090", fake_everywhere=True) as gpu:
            seconds = steps(gpu.mark, set={"lm_n_blocks": str(blocks)})
            cells.append(f"{blocks} blocks {1e6 * seconds / len(gpu.recorder.ops):.0f}")
    return ", ".join(cells)


def command() -> tuple[float, float]:
    """Seconds and MiB of the whole `memgraph analyze --seq 512`."""
    start = time.perf_counter()
    subprocess.run(
        [sys.executable, "-m", "memgraph", "analyze", "--seq", "512"], check=False, stdout=subprocess.DEVNULL
    )
    return time.perf_counter() - start, resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024


def alone(name: str, times: int = 3) -> float:
    """Best of some runs, each in a new process."""
    return min(float(said_by(name).split()[-1]) for _ in range(times))


def said_by(name: str) -> str:
    """What a new process says that takes one of the figures."""
    command = [sys.executable, "-m", "benchmarks.speed.capture", name]
    return subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True).stdout


def main() -> None:
    own: dict[str, Callable[[], Any]] = {"bare": bare, "capture": capture, "memtracker": memtracker, "per_op": per_op}
    if len(sys.argv) > 1 and sys.argv[1] in own:
        print(own[sys.argv[1]]())
        return
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
    plain, captured = alone("bare"), alone("capture")
    print(f"bare FakeTensorMode   {plain:6.2f} s")
    print(f"capture               {captured:6.2f} s   {captured / plain:.2f} x bare")
    if "--quick" not in sys.argv:
        tracked = alone("memtracker", 1)
        print(f"MemTracker            {tracked:6.2f} s   {tracked / captured:.1f} x capture")
    runs = [command() for _ in range(3)]
    print(
        f"memgraph analyze      {min(seconds for seconds, _ in runs):6.2f} s   {runs[-1][1]:.0f} MiB resident at most"
    )
    print(f"microseconds an op    {said_by('per_op').strip()}")


if __name__ == "__main__":
    main()
