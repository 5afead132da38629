"""On a machine with a GPU: what is recorded there, against what is predicted on the same machine without it.

Each run is a process of its own: an allocator can be put in only once, and before anything is on the card.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

import memgraph
from memgraph.analyze.compare import compare
from memgraph.trace import Action, Trace

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
def test_a_small_card_refuses_the_same_allocation(tmp_path: Path, via: str) -> None:
    """Reserved bytes decide with torch's memory fraction, requested ones with the hook."""
    whole = predicted(tmp_path)
    cap = (whole.peak.reserved if via == "history" else whole.peak.requested) - 2**27
    real = recorded(tmp_path, "--via", via, "--cap", str(cap))
    assert not real.fits
    place = real.events.columns[0].index(Action.OUT_OF_MEMORY)
    count = sum(action == Action.ALLOC for action in real.events.columns[0][:place])
    if via == "history":
        small = predicted(tmp_path, "--memory", str(cap))
        there = small.events.columns[0].index(Action.OUT_OF_MEMORY)
        assert sum(action == Action.ALLOC for action in small.events.columns[0][:there]) == count
        assert small.events[there].size == real.events[place].size
    else:
        refused, size = first_beyond(whole, cap)
        assert (count, real.events[place].size) == (refused, size)


def first_beyond(trace: Trace, cap: int) -> tuple[int, int]:
    """The number of the first allocation that brings the requested bytes above a cap, and its size."""
    held = count = 0
    for event in trace.events:
        if event.action is Action.FREE:
            held -= trace.buffers[event.buffer].size
        elif event.action is Action.ALLOC:
            held += trace.buffers[event.buffer].size
            if held > cap:
                return count, trace.buffers[event.buffer].size
            count += 1
    raise AssertionError("all of it fits")


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
