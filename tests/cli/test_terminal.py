"""Commands as processes of their own: signals, pipes and terminals."""

from __future__ import annotations

import json
import os
import pty
import signal
import subprocess
import termios
import time
from pathlib import Path
from typing import IO, Any

import memgraph
from tests.commands import SMALL, command, process


def test_ctrl_c_in_the_middle_of_a_run(tmp_path: Path) -> None:
    """The model says when its forward runs, and would not end."""
    (tmp_path / "endless.py").write_text(
        "import pathlib, time, torch\n"
        "class Model(torch.nn.Linear):\n"
        "    def forward(self, x):\n"
        "        pathlib.Path('running').touch()\n"
        "        end = time.monotonic() + 50\n"
        "        while time.monotonic() < end: y = super().forward(x)\n"
        "        return y.sum()\n"
        "def make(batch): return Model(10, 10), torch.rand(batch, 10)\n"
    )
    running = subprocess.Popen(
        command("analyze", "--model", "endless:make", "-o", "t.memgraph"),
        cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        env=os.environ | {"PYTHONPATH": str(Path(memgraph.__file__).parents[1]), "PYTHONDONTWRITEBYTECODE": "1"},
    )  # fmt: skip
    _wait_for(tmp_path / "running", running)
    running.send_signal(signal.SIGINT)
    out, err = running.communicate(timeout=30)
    assert running.returncode == 130
    assert (out, err.lstrip("\n")) == ("", "memgraph: interrupted\n")  # the line of ^C itself may be ended first
    assert sorted(path.name for path in tmp_path.iterdir()) == ["endless.py", "running"]


def _wait_for(path: Path, running: subprocess.Popen[str]) -> None:
    end = time.monotonic() + 45
    while not path.exists():
        assert running.poll() is None and time.monotonic() < end, running.communicate()
        time.sleep(0.05)
    time.sleep(0.2)


def test_a_reader_that_goes_away_is_no_error(saved: Path) -> None:
    for arguments in (("gpus",), ("analyze", saved), ("analyze", saved, "--format", "json"), ("--help",)):
        reader, writer = os.pipe()
        os.close(reader)
        with os.fdopen(writer) as stdout:
            result = subprocess.run(command(*arguments), stdout=stdout, stderr=subprocess.PIPE, check=False, timeout=30)
        assert (result.returncode, result.stderr) == (0, b""), arguments


def in_terminal(arguments: tuple[object, ...], stream: str, **environment: str) -> tuple[int, str, str]:
    """Run with `stream` (stdout or stderr) on a terminal; the code, what it saw, what the other stream got."""
    master, slave = pty.openpty()
    termios.tcsetwinsize(slave, (24, 80))
    other = {"stdout": "stderr", "stderr": "stdout"}[stream]
    streams: dict[str, Any] = {stream: slave, other: subprocess.PIPE}
    clean = {name: value for name, value in os.environ.items() if name not in ("NO_COLOR", "FORCE_COLOR")}
    running = subprocess.Popen(command(*arguments), env=clean | {"TERM": "xterm"} | environment, **streams)
    os.close(slave)
    seen = _read_all(master)
    pipe: IO[bytes] | None = getattr(running, other)
    assert pipe is not None
    with pipe:
        rest = pipe.read().decode()
    return running.wait(timeout=60), seen, rest


def _read_all(master: int) -> str:
    """What a terminal saw, until nobody writes to it any more."""
    chunks = []
    try:
        while chunk := os.read(master, 65536):
            chunks.append(chunk)
    except OSError:  # how Linux says the end of a terminal
        pass
    os.close(master)
    return b"".join(chunks).decode()


def test_colour_and_the_line_of_blocks_are_for_terminals(saved: Path) -> None:
    code, seen, rest = in_terminal(("analyze", saved), "stdout")
    assert (code, rest) == (0, "")
    assert "\x1b[32m" in seen and "█" in seen  # green: it fits


def test_no_color(saved: Path) -> None:
    _, seen, _ = in_terminal(("analyze", saved), "stdout", NO_COLOR="1")
    assert "\x1b" not in seen and "█" in seen


def test_a_terminal_that_knows_no_blocks_gets_none(saved: Path) -> None:
    code, seen, rest = in_terminal(("analyze", saved), "stdout", PYTHONIOENCODING="ascii")
    assert (code, rest) == (0, "") and seen.isascii() and "Fits" in seen


def test_a_pipe_gets_neither_colour_nor_blocks(saved: Path) -> None:
    result = process("analyze", saved, env=os.environ | {"TERM": "xterm", "FORCE_COLOR": "1"})
    assert (result.code, result.err) == (0, "") and "\x1b" not in result.out and "█" not in result.out


def test_progress_is_for_terminals_and_on_stderr() -> None:
    code, seen, rest = in_terminal(("analyze", *SMALL, "--format", "json"), "stderr")
    assert code == 0 and "step 1 of 1" in seen
    assert json.loads(rest)["fits"] is True
