"""`memgraph record`, as far as it goes without a GPU; and, over a CUDA runtime that is none, what is left of a run
however it ends. tests/capture/real/test_on_gpu.py has the rest."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import IO

import pytest
import torch
from click.testing import CliRunner, Result

import memgraph
from memgraph.cli.main import main
from memgraph.errors import MemgraphError, UsageError

PRETENDED = """
import ctypes, json, os, sys, types
import torch
from memgraph.capture.real import hook
from memgraph.cli.main import main

hook._cudart = lambda: sys.argv[1].encode()
hook.install = lambda: None
torch.cuda.is_available = lambda: True
torch.cuda.current_device = lambda: 0
torch.cuda.synchronize = lambda: None
torch.cuda.get_device_properties = lambda device: types.SimpleNamespace(name="NVIDIA None", total_memory=2**34)
library = hook.library()
library.memgraph_hook_malloc.argtypes = [ctypes.c_ssize_t, ctypes.c_int, ctypes.c_void_p]
library.memgraph_hook_malloc.restype = ctypes.c_void_p
torch.cuda.take = lambda size: library.memgraph_hook_malloc(size, 0, None)
import memgraph.api, memgraph.capture.real.recording, torch._dynamo
for line in sys.stdin:
    folder, arguments = json.loads(line)
    child = os.fork()
    if not child:
        os.chdir(folder)
        for name, number in (("out", 1), ("errors", 2)):
            os.dup2(os.open(name, os.O_WRONLY | os.O_CREAT), number)
        main(arguments)
    print(child, flush=True)
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
"""
"""A process in which a GPU seems to be there, and `torch.cuda.take` asks the hook as PyTorch would. It imports
torch once and forks for each command."""

SCRIPT = """
import os, signal, sys, torch
from torch import nn
model = nn.Linear(4, 2)
optimizer = torch.optim.SGD(model.parameters())
torch.cuda.take(1000)
for step in range(3):
    loss = model(torch.ones(1, 4)).sum()
    torch.cuda.take(100)
    loss.backward()
    torch.cuda.take(10)
    optimizer.step()
    torch.cuda.take(1)
    optimizer.zero_grad()
    if step == 1:
        sys.stdout.flush()
        END
print("all of it")
"""


class Machine:
    """One with a GPU, or so it seems."""

    def __init__(self, runtime: Path) -> None:
        command = [sys.executable, "-c", PRETENDED, str(runtime)]
        self.process = subprocess.Popen(command, text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE)

    def start(self, folder: Path, end: str, *more: str) -> int:
        """Record the script, which ends like this. The number of its process."""
        (folder / "train.py").write_text(SCRIPT.replace("END", end))
        arguments = ["record", "--via", "hook", "-o", "real.memgraph", *more, "train.py"]
        self._pipe(self.process.stdin).write(json.dumps([str(folder), arguments]) + "\n")
        self._pipe(self.process.stdin).flush()
        return self.answer()

    def answer(self) -> int:
        return int(self._pipe(self.process.stdout).readline())

    def run(self, folder: Path, end: str, *more: str) -> int:
        """To its end: the exit code."""
        self.start(folder, end, *more)
        return self.answer()

    @staticmethod
    def _pipe(stream: IO[str] | None) -> IO[str]:
        assert stream is not None
        return stream


@pytest.fixture(scope="module")
def machine(runtime: Path) -> Iterator[Machine]:
    made = Machine(runtime)
    yield made
    made.process.stdin.close()  # type: ignore[union-attr]
    made.process.wait(timeout=60)


TWO_STEPS = [1000, 100, 10, 1, 100, 10, 1]


@pytest.mark.parametrize(
    ("end", "code", "said", "sizes"),
    [
        ("pass", 0, "", [*TWO_STEPS, 100, 10, 1]),
        ("raise ValueError('no')", 1, "the script failed: ValueError: no", TWO_STEPS),
        ("sys.exit(5)", 5, "", TWO_STEPS),
        ("os.kill(os.getpid(), signal.SIGTERM)", 143, "stopped by SIGTERM", TWO_STEPS),
        ("os.kill(os.getpid(), signal.SIGINT)", 130, "interrupted", TWO_STEPS),
        ("raise torch.cuda.OutOfMemoryError('none left')", 1, "none left", TWO_STEPS),
    ],
)
def test_however_a_script_ends_what_was_recorded_is_kept(
    machine: Machine, tmp_path: Path, end: str, code: int, said: str, sizes: list[int]
) -> None:
    found = machine.run(tmp_path, end)
    out, errors = (tmp_path / "out").read_text(), (tmp_path / "errors").read_text()
    assert found == code, errors
    assert said in errors and ("all of it" in out) == (end == "pass")
    trace = memgraph.load(tmp_path / "real.memgraph")
    assert [buffer.size for buffer in trace.buffers] == sizes
    assert not (tmp_path / "real.memgraph.log").exists()


@pytest.mark.parametrize("end", ["os.kill(os.getpid(), signal.SIGKILL)", "os._exit(9)", "ctypes.string_at(0)"])
def test_what_is_left_of_a_killed_process_can_be_read(machine: Machine, tmp_path: Path, end: str) -> None:
    assert machine.run(tmp_path, f"import ctypes; {end}") in (-signal.SIGKILL, 9, -signal.SIGSEGV)
    assert not (tmp_path / "real.memgraph").exists()
    trace = memgraph.load(tmp_path / "real.memgraph.log")
    trace.self_check()
    assert [buffer.size for buffer in trace.buffers] == TWO_STEPS
    assert (trace.gpu, trace.settings["script"], trace.settings["via"]) == ("NVIDIA None", "train.py", "hook")


def test_the_log_can_be_read_while_the_run_goes_on(machine: Machine, tmp_path: Path) -> None:
    number = machine.start(tmp_path, "open('here', 'w'); import time; time.sleep(60)")
    end = time.monotonic() + 60
    while not (tmp_path / "here").exists():
        assert time.monotonic() < end
        time.sleep(0.02)
    assert len(memgraph.load(tmp_path / "real.memgraph.log").buffers) == len(TWO_STEPS)
    os.kill(number, signal.SIGTERM)
    assert machine.answer() == 128 + signal.SIGTERM


def test_phases_of_a_script_are_told_from_what_it_does(machine: Machine, tmp_path: Path) -> None:
    """Which of them each request fell into: 1000 in the load, 100 in the forward, 10 after the backward, 1 later."""
    machine.run(tmp_path, "pass", "--steps", "2")
    trace = memgraph.load(tmp_path / "real.memgraph")
    told = [(trace.phase_at(life.start).name, trace.phase_at(life.start).step) for life in trace.lives]
    assert told == [("load", 0), ("forward", 1), ("update", 1), ("input", 2), ("forward", 2), ("update", 2)]


def test_ops_are_told_with_their_module_and_line(machine: Machine, tmp_path: Path) -> None:
    machine.run(tmp_path, "pass", "--ops")
    trace = memgraph.load(tmp_path / "real.memgraph")
    names = [(op.name, trace.phases[op.phase].name, op.source) for op in trace.ops]
    assert ("aten.addmm.default", "forward", "train.py:8") in names
    assert ("aten.mm.default", "backward", "train.py:8") in names  # the line of its forward
    assert any(name.startswith("aten.add_") for name, phase, _ in names if phase == "optimizer")
    (note,) = trace.assumptions
    assert note.startswith("ops were marked, and so gradients that meet took allocations of their own")
    last = trace.ops[trace.buffers[2].op]
    assert trace.phases[last.phase].name == "backward"  # nothing ran since


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")  # for the processes that it starts
    (tmp_path / "train.py").write_text("print('it ran')")
    return tmp_path


def record(*arguments: str) -> Result:
    return CliRunner().invoke(main, ["record", "-o", "real.memgraph", *arguments])


@pytest.mark.parametrize("via", ["history", "hook", "both"])
@pytest.mark.parametrize("target", [[], ["train.py"], ["--model", "nanovlm-460m"]])
def test_without_a_gpu_it_is_one_line(here: Path, via: str, target: list[str]) -> None:
    result = record("--via", via, *target)
    assert result.exit_code == 1
    assert result.output == (
        "memgraph: no GPU is visible, so there is nothing to record: `memgraph analyze` predicts without one\n"
    )
    assert list(here.iterdir()) == [here / "train.py"]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--gpu", "h200"], "--gpu is for a GPU that is not there"),
        (["--memory", "24GiB"], "--memory is for a GPU that is not there; --cap makes"),
        (["--batch", "4", "train.py"], "--batch describes a run of memgraph's own, and train.py is a script"),
        (["--ops"], "--ops needs --via hook"),
        (["-m"], "name the module"),
        (["--cap", "a lot"], "is not a size"),
        (["--via", "hook", "missing.py"], "there is no script missing.py"),
    ],
)
def test_what_would_have_no_effect_is_refused(here: Path, arguments: list[str], said: str) -> None:
    result = record(*arguments)
    assert result.exit_code == 2 and said in result.output
    assert len(result.output.strip().splitlines()) == 1


@pytest.mark.parametrize("name", ["real.memgraph", "real.memgraph.log"])
def test_nothing_is_overwritten(here: Path, name: str) -> None:
    (here / name).write_text("mine")
    result = record("--via", "hook")
    assert result.exit_code == 2 and "exists" in result.output
    assert (here / name).read_text() == "mine"


def test_both_runs_the_same_command_through_the_hook(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is the script's stays the script's, also if it looks like ours."""
    commands: list[list[str]] = []

    def run(command: list[str], **_: object) -> subprocess.CompletedProcess[bytes]:
        commands.append(command)
        return subprocess.CompletedProcess(command, 1, b"", b"memgraph: it broke\n")

    monkeypatch.setattr(subprocess, "run", run)
    result = CliRunner().invoke(
        main,
        ["record", "--output=a.memgraph", "--via=both", "--steps", "3", "--ops", "train.py", "-o", "b", "--via", "c"],
    )
    (command,) = commands
    path = command[command.index("-o") + 1]
    assert command == [
        sys.executable, "-m", "memgraph", "record", "--via", "hook", "-o", path, "--steps=3", "--ops", "--",
        "train.py", "-o", "b", "--via", "c",
    ]  # fmt: skip
    assert result.output == "memgraph: the run through the hook failed: it broke\n"


def test_both_passes_the_options_of_a_model_on(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    commands: list[list[str]] = []
    monkeypatch.setattr(
        subprocess,
        "run",
        lambda command, **_: commands.append(command) or subprocess.CompletedProcess(command, 1, b"", b""),
    )
    record("--via", "both", "--batch", "2", "--set", "lm_n_blocks=1", "--set", "vit_n_blocks=1", "--cap", "3GiB")
    assert set(commands[0][8:]) == {"--batch=2", "--set=lm_n_blocks=1", "--set=vit_n_blocks=1", "--cap=3GiB"}


def test_the_context_manager_says_so_too(here: Path) -> None:
    for via in ("history", "hook"):
        with pytest.raises(MemgraphError, match="no GPU is visible"), memgraph.record(via):
            pass
    with pytest.raises(UsageError, match="it is one of history, hook"), memgraph.record("both"):
        pass
    with pytest.raises(UsageError, match="history knows no ops"), memgraph.record(ops=True):
        pass
