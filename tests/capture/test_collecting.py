"""Cycles of references die when Python's collector would have run in the program by itself."""

from __future__ import annotations

import gc
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from memgraph.trace import Trace
from tests.capture.watching import card

CYCLES = """
import torch, weakref
class Node:
    def __init__(self, data): self.data = data
device = "cuda" if torch.cuda.is_available() else "cpu"
live, most = weakref.WeakSet(), 0
for _ in range(600):
    one, other = Node(torch.randn(2**14, device=device)), Node(torch.randn(2**14, device=device))
    live.add(one); live.add(other); most = max(most, len(live))
    one.next, other.next = other, one
print(most)
"""


class Node:
    """An object in a cycle with itself."""

    def __init__(self) -> None:
        self.data, self.me = torch.zeros(128, device="cuda"), self


def test_cycles_live_as_long_as_in_the_plain_program(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """Some hundred objects are alive at most under python; under a recorder whose objects counted it were a third."""
    from memgraph.api import run_script

    script = tmp_path / "cycles.py"
    script.write_text(CYCLES)
    result = subprocess.run([sys.executable, str(script)], capture_output=True, text=True, check=True)
    run_script(str(script))
    ours = int(capfd.readouterr().out)
    assert ours == pytest.approx(int(result.stdout), rel=0.15)


def most(trace: Trace) -> int:
    """Tensors of 512 bytes alive at most."""
    return trace.peak.requested // 512


def test_a_collector_that_is_off_collects_nothing() -> None:
    with card() as gpu:
        gc.disable()
        assert not gc.isenabled()
        for _ in range(1000):
            Node()
        gc.enable()
    assert most(gpu.trace) == 1000
    gc.collect()


def test_a_collection_that_is_asked_for_is_done_at_once() -> None:
    with card() as gpu:
        for _ in range(10):
            Node()
            gc.collect()
    assert most(gpu.trace) == 1


def test_the_collector_is_as_it_was_after_the_run() -> None:
    before = gc.isenabled(), gc.collect
    with card():
        pass
    assert (gc.isenabled(), gc.collect) == before
