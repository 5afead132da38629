"""On a machine with a GPU: what is recorded there, against what is predicted on the same machine without it.

Each run is a process of its own: an allocator can be put in only once, and before anything is on the card.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

import memgraph
from memgraph.analyze.compare import compare
from memgraph.trace import Trace
from tests import ROOT

pytestmark = pytest.mark.gpu

RUN = ["--batch", "4", "--seq", "256", "--set", "lm_n_blocks=4", "--set", "vit_n_blocks=2"]


def python(*arguments: str, hidden: bool = False, check: bool = True) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "CUDA_VISIBLE_DEVICES": ""} if hidden else dict(os.environ)
    command = [sys.executable, *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=check, env=environment)


def recorded(folder: Path, *arguments: str) -> Trace:
    path = folder / "real.memgraph"
    python("-m", "memgraph", "record", *RUN, *arguments, "-o", str(path), "--force", check=False)
    return memgraph.load(path)


def predicted(folder: Path, *arguments: str) -> Trace:
    """With the GPU hidden."""
    import torch

    from memgraph.gpu.specs import find

    path = folder / "predicted.memgraph"
    card = find(torch.cuda.get_device_name()).name
    command = ["-m", "memgraph", "analyze", *RUN, "--gpu", card, *arguments, "-o", str(path), "--force"]
    python(*command, hidden=True, check=False)
    return memgraph.load(path)


@pytest.mark.parametrize("via", ["history", "hook"])
def test_the_prediction_is_what_happens(tmp_path: Path, via: str) -> None:
    found = compare(predicted(tmp_path), recorded(tmp_path, "--via", via))
    assert found.matched >= 0.99 * found.measured
    assert abs(found.peaks[0].ratio - 1) <= 0.0005
    assert abs(found.peaks[1].ratio - 1) <= 0.005


def test_hook_and_history_see_the_same(tmp_path: Path) -> None:
    both = recorded(tmp_path, "--via", "both")
    assert both.settings["hook"]["requested"] == both.peak.requested
    assert both.settings["hook"]["matched"] == both.settings["hook"]["allocations"] == len(both.buffers)
    assert both.assumptions == ()


@pytest.mark.parametrize("via", ["history", "hook"])
def test_what_ops_take_is_measured_after_the_recording(tmp_path: Path, via: str) -> None:
    """The trace is that of a run without; of the step's ops that are no views most have a time, and they add up to what
    a step of this size can take."""
    from memgraph.plan.cost import measured
    from memgraph.plan.times import load_times

    plain = recorded(tmp_path, "--via", via)
    timed = recorded(tmp_path, "--via", via, "--times", str(tmp_path / "times.json"))
    assert [buffer.size for buffer in timed.buffers] == [buffer.size for buffer in plain.buffers]
    assert timed.peak == plain.peak
    times = load_times(tmp_path / "times.json")
    found = measured(predicted(tmp_path), times)
    assert times.gpu == timed.gpu and found.ops >= 0.5 * found.of
    products = sum(row.microseconds for row in times.rows if row.name in ("mm", "addmm"))
    assert 100 < products < 1_000_000


@pytest.mark.parametrize("via", ["history", "hook"])
def test_a_small_card_refuses_the_same_allocation(tmp_path: Path, via: str) -> None:
    """Reserved bytes decide with torch's memory fraction, requested ones with the hook."""
    whole = predicted(tmp_path)
    cap = (whole.peak.reserved if via == "history" else whole.peak.requested) - 2**27
    real = recorded(tmp_path, "--via", via, "--cap", str(cap))
    assert not real.fits
    found = compare(predicted(tmp_path, "--memory", str(cap)) if via == "history" else whole, real)
    ours, theirs = found.refused
    assert ours is not None and theirs is not None
    assert ours.is_that_of(theirs)
    assert found.matched >= 0.99 * found.measured


SCRIPT = """
import torch
import memgraph
with memgraph.record("hook", cap=2**30) as recording:
    try:
        torch.empty(2**31, device="cuda", dtype=torch.uint8)
    except torch.cuda.OutOfMemoryError as error:
        print("caught", error)
    print(float(torch.ones(1000, device="cuda").sum()))
print(recording.trace.fits)
"""


def test_a_script_can_catch_what_the_hook_refuses() -> None:
    out = python("-c", SCRIPT).stdout.splitlines()
    assert out[0].startswith("caught CUDA out of memory. Tried to allocate 2048.00 MiB.")
    assert out[1:] == ["1000.0", "False"]


def test_a_killed_recording_can_be_read(tmp_path: Path) -> None:
    """The log of steps that nobody will finish."""
    command = [sys.executable, "-m", "memgraph", "record", *RUN, "--steps", "1000000", "--via", "hook", "-o"]
    process = subprocess.Popen([*command, str(tmp_path / "real.memgraph")])
    log = tmp_path / "real.memgraph.log"
    until = time.monotonic() + 60
    while not (log.exists() and log.stat().st_size > 9 * 10**7 and len(memgraph.load(log).phases) > 12):
        assert process.poll() is None and time.monotonic() < until
        time.sleep(0.2)
    process.kill()
    process.wait()
    trace = memgraph.load(log)
    assert trace.settings["batch"] == 4 and trace.phases[-1].step >= 3
    assert trace.peak.requested > 2**28


def test_a_script_is_recorded_as_it_is_predicted(tmp_path: Path) -> None:
    """Through the hook, with the ops: every allocation, and the op and module that made it."""
    import torch

    from memgraph.gpu.specs import find

    script = str(ROOT / "benchmarks" / "accuracy" / "tiny.py")
    paths = [str(tmp_path / name) for name in ("predicted.memgraph", "real.memgraph")]
    card = find(torch.cuda.get_device_name()).name
    python("-m", "memgraph", "run", "--gpu", card, "-o", paths[0], script, hidden=True)
    python("-m", "memgraph", "record", "--via", "hook", "--ops", "-o", paths[1], script)
    ours, real = map(memgraph.load, paths)
    found = compare(ours, real)
    assert found.matched == found.measured == found.predicted
    assert found.peaks[0].ratio == 1
    names = [[(b.size, t.ops[b.op].name, t.ops[b.op].module) for b in t.buffers if b.op >= 0] for t in (ours, real)]
    same = sum(own in names[1] for own in names[0])
    assert same >= 0.8 * len(names[0])
