"""A signal at any moment ends a command at once: no traceback, no file in half, no process that is left."""

from __future__ import annotations

import contextlib
import functools
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

import memgraph
from memgraph.children import end_with
from tests.fuzzing import seeds
from tests.test_children import wait_for

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="processes are looked for in /proc")

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGKILL)
SCRIPT = """
import torch
model = torch.nn.Linear(64, 64).cuda()
for _ in range(3):
    model(torch.randn(8, 64, device="cuda")).sum().backward()
"""
MODEL = """
import torch
class Model(torch.nn.Linear):
    def forward(self, x):
        return super().forward(x).square().mean()
def make(batch=2):
    return Model(8, 8), (torch.randn(batch, 8),)
"""
PICTURE = "out.svg" if shutil.which("dot") else "out.dot"
QUICK = [
    ["analyze", "toy.memgraph", "-o", "out.memgraph"], ["timeline", "toy.memgraph", "-o", "out.html"],
    ["timeline", "toy.memgraph", "-o", PICTURE], ["diff", "toy.memgraph", "toy.memgraph"], ["gpus"],
]  # fmt: skip
SLOW = [
    ["run", "--gpu", "t4", "script.py"], ["run", "--gpu", "t4", "--world", "2", "--ranks", "distinct", "script.py"],
    ["analyze", "--model", "model:make", "--gpu", "t4", "-o", "out.memgraph"],
    ["fit", "--model", "model:make", "--gpu", "t4", "--batch", "1,2"],
]  # fmt: skip


def prepare(folder: Path) -> None:
    """What the commands read; the toy trace is there."""
    (folder / "script.py").write_text(SCRIPT)
    (folder / "model.py").write_text(MODEL)


def processes_of(session: int) -> list[int]:
    """Those of a session that run."""
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            state, _, _, of, *_ = path.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if int(of) == session and state != "Z":
            found.append(int(path.parent.name))
    return found


def check(seed: int, folder: Path) -> str:
    """One command, one signal."""
    r = random.Random(seed)
    slow = r.random() < 0.4
    words, number = r.choice(SLOW if slow else QUICK), r.choice(SIGNALS)
    for path in folder.glob("out.*"):
        path.unlink()
    temporary = folder / "temporary"
    temporary.mkdir(exist_ok=True)
    before = set(folder.iterdir())
    found = os.pathsep.join(filter(None, sys.path))
    process = subprocess.Popen(
        [sys.executable, "-m", "memgraph", *words], cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        start_new_session=True, env=os.environ | {"PYTHONPATH": found, "TMPDIR": str(temporary)},
        preexec_fn=functools.partial(end_with, os.getpid()),
    )  # fmt: skip
    time.sleep(r.random() * (5 if slow else 0.8))
    with contextlib.suppress(ProcessLookupError):  # as a terminal does it, to all of them; or to one
        r.choice([os.killpg, os.kill])(process.pid, number)
    _, said = process.communicate(timeout=60)
    told = f"seed {seed}: {words} {number.name} -> {process.returncode}: {said[-2000:].decode(errors='replace')}"
    start = b"Traceback" in said and b"in run\n" not in said  # of Python itself, which has not come to us
    good = {0, -number, 130} if number is signal.SIGINT else {0, -number}
    assert start or (b"Traceback" not in said and process.returncode in good), told
    assert wait_for(lambda: not processes_of(process.pid), 5), f"{told}: left {processes_of(process.pid)}"
    left = set(folder.iterdir()) - before - {folder / "__pycache__"}
    assert all(path.name.startswith("out.") for path in left), f"{told}: left {left}"
    assert wait_for(lambda: not list(temporary.glob("memgraph-*")), 5), f"{told}: left {list(temporary.iterdir())}"
    if (folder / "out.memgraph").exists():
        memgraph.load(folder / "out.memgraph")
    return f"{number.name} {process.returncode}"


def test_a_signal_at_any_moment(saved: Path) -> None:
    prepare(saved.parent)
    for seed in seeds(3):
        check(seed, saved.parent)
