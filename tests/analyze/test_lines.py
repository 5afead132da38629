"""The line of the program itself, with that of a library beside it: of predictions and of snapshots alike."""

from __future__ import annotations

import pickle
import sys
from pathlib import Path

import pytest

import memgraph
from memgraph.analyze.attribution import consumers
from memgraph.analyze.lines import both
from memgraph.api import run_script
from memgraph.files.any_file import load
from memgraph.render import json, table
from memgraph.trace import Trace
from tests.files.stacks_by_hand import ALLOCATE, IN_MODULE, USER, called, python

MIB = 2**20
LIBRARY = """\
import torch
def double(x):
    return x.add(x)
"""
SCRIPT = """\
import torch, kindly
x = torch.ones(2**20, device="cuda")
y = kindly.double(x)
z = x.mul(2)
"""


@pytest.fixture
def trace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Trace:
    """Two tensors of 4 MiB: one that a library makes for line 3, one that line 4 makes."""
    installed = tmp_path / "site-packages"
    installed.mkdir()
    (installed / "kindly.py").write_text(LIBRARY)
    monkeypatch.syspath_prepend(installed)
    script = tmp_path / "train.py"
    script.write_text(SCRIPT)
    trace, ended = run_script(str(script), gpu="t4")
    sys.modules.pop("kindly")
    assert ended.error is None
    return trace


def test_a_prediction_tells_both(trace: Trace, tmp_path: Path) -> None:
    folder, library = tmp_path.name, "site-packages/kindly.py:3"
    assert trace.callers == ((library, f"{folder}/train.py:3"),)
    told = {row.op: row.provenance for row in consumers(trace)}
    assert told["aten.add.Tensor"].endswith(f", {folder}/train.py:3 ({library})")
    assert told["aten.mul.Tensor"].endswith(f", {folder}/train.py:4")
    rows = {row["op"]: (row["source"], row["library"]) for row in json.report(trace, 5)["top"]}
    assert rows["aten.add.Tensor"] == (f"{folder}/train.py:3", library)
    assert rows["aten.mul.Tensor"] == (f"{folder}/train.py:4", None)


def test_both_are_kept_in_the_file_and_can_be_left_out(trace: Trace, tmp_path: Path) -> None:
    trace.save(tmp_path / "a.memgraph")
    assert load(tmp_path / "a.memgraph").callers == trace.callers
    alone = load(tmp_path / "a.memgraph", libraries=True)
    assert alone.callers == ()
    assert "output of add, site-packages/kindly.py:3" in table.report(alone, 5)


def test_a_snapshot_tells_both(tmp_path: Path) -> None:
    """`IN_MODULE` is called at line 12 of the user's file, here through a library's line 7."""
    library = python(("/usr/lib/python3/dist-packages/kindly/net.py", "run", 7))
    *module, user = IN_MODULE
    frames = [*ALLOCATE, *called("mul"), *module, *library, user]
    taken = {"action": "segment_alloc", "addr": 0, "size": 2 * MIB, "stream": 0, "frames": []}
    entries = [taken, {"action": "alloc", "addr": 0, "size": MIB, "stream": 0, "frames": frames}]
    path = tmp_path / "a.pickle"
    path.write_bytes(pickle.dumps({"segments": [], "device_traces": [entries]}))
    assert user["filename"] == USER
    (row,) = consumers(memgraph.load(path))
    assert row.source == "kindly/net.py:7"
    assert row.provenance == "output of mul, me/train.py:12 (kindly/net.py:7)"
    (row,) = consumers(load(path, libraries=True))
    assert row.provenance == "output of mul, kindly/net.py:7"


def test_a_line_of_the_program_is_told_as_it_is() -> None:
    assert both({"net.py:7": "train.py:3"}, "train.py:4") == "train.py:4"
