"""What nobody would type, and what a shell does to a program: one line, the right code, at once."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from memgraph.cli.main import main

LONG = "x" * 5000


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("analyze FILE -o ''", "is not a plain file"),
        ("timeline FILE -o ''", "unknown kind of file"),
        ("record -o ''", "is not a plain file"),
        ("record -o /", "is a directory"),
        ("record -o real.memgraph --times ''", "is not a plain file"),
        ("monitor --baseline '' --update", "is not a plain file"),
        ("analyze /dev/zero", "/dev/zero is not a plain file: write what it gives into one"),
        ("checkpoint --host-cost nan", "nan is not a number"),
        ("checkpoint --host-cost inf", "not in the range"),
        ("run --select nan x.py", "nan is not a number"),
        ("analyze --clip nan", "clip is nan"),
        ("analyze --batch 99999999999999999999", "batch is 99999999999999999999: it may be 1,073,741,824 at most"),
        ("analyze --seq 99999999999999999999", "it may be 1,073,741,824 at most"),
        ("analyze --steps 99999999999999999999", "it may be 10,000 at most"),
        ("analyze --accumulate 99999999999", "it may be 10,000 at most"),
        ("analyze --steps 200 --accumulate 100", "10,000 in all may be traced"),
        ("analyze --memory 99999999999999999999", "is not a size"),
        (f"analyze --gpu {LONG}", "unknown GPU"),
        (f"analyze --model {LONG}", "model"),
        (f"analyze --batch {LONG}", "is not a valid integer"),
        (f"analyze --set {LONG}", "write it like"),
        (f"analyze --alloc-conf {LONG}", "is not a setting"),
        (f"analyze --alloc-conf '{'a b ' * 1000}'", "is not a setting"),
        (f"{LONG}", "unknown command"),
        (f"analyze {LONG}", "File name too long"),
        (f"check FILE FILE --tolerance {LONG}", "write it like"),
        ("analyze '\x1b[31mred'", "cannot read \\x1b[31mred"),
    ],
)
def test_one_line_and_the_code_of_usage(line: str, said: str, saved: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    words = [str(saved) if word == "FILE" else word for word in shlex.split(line)]
    monkeypatch.setattr(sys, "argv", ["memgraph", *words])
    result = CliRunner().invoke(main, words)
    assert result.exit_code in (1, 2) and result.output.startswith("memgraph: ") and result.output.count("\n") == 1
    assert said in result.output and len(result.output) < 1600 and LONG[:250] not in result.output


@pytest.mark.parametrize("words", ["analyze PIPE", "diff PIPE FILE", "check FILE PIPE", "timeline PIPE -o OUT"])
def test_a_pipe_is_no_trace_and_nobody_waits_for_it(words: str, saved: Path, tmp_path: Path) -> None:
    """A trace is read twice, to see what it is and whole."""
    os.mkfifo(tmp_path / "pipe")
    places = {"PIPE": tmp_path / "pipe", "FILE": saved, "OUT": tmp_path / "a.json"}
    line = [sys.executable, "-m", "memgraph", *(str(places.get(word, word)) for word in words.split())]
    done = subprocess.run(line, capture_output=True, text=True, check=False, timeout=60)
    said = f"memgraph: {tmp_path / 'pipe'} is not a plain file: write what it gives into one\n"
    assert (done.returncode, done.stdout, done.stderr) == (1, "", said)


@pytest.mark.parametrize(
    ("shell", "code", "said"),
    [
        ("gpus > /dev/full", 1, "cannot write the answer: No space left on device"),
        ("gpus --format json > /dev/full", 1, "cannot write the answer: No space left on device"),
        ("--help > /dev/full", 1, "cannot write the answer: No space left on device"),
        ("gpus >&-", 1, "cannot write the answer: Bad file descriptor"),
        ("analyze FILE > /dev/full", 1, "cannot write the answer: No space left on device"),
        ("timeline FILE -o OUT --force >&-", 0, ""),
        ("gpus <&- > /dev/null", 0, ""),
        ("nope 2>&-", 2, ""),
        ("nope 2> /dev/full", 2, ""),
        ("gpus >&- 2>&-", 1, ""),
    ],
)
def test_a_full_disk_and_closed_streams(shell: str, code: int, said: str, saved: Path, tmp_path: Path) -> None:
    line = f"{sys.executable} -m memgraph {shell}".replace("FILE", str(saved)).replace("OUT", str(tmp_path / "a.json"))
    buffered = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
    for environment in (buffered, buffered | {"PYTHONUNBUFFERED": "1"}):
        done = subprocess.run(["sh", "-c", line], capture_output=True, text=True, check=False, env=environment)
        assert (done.returncode, done.stderr) == (code, f"memgraph: {said}\n" if said else "")


@pytest.mark.parametrize(("interrupted", "code"), [(True, 130), (False, 1)])
def test_what_fails_after_an_interrupt_that_was_swallowed_is_one(interrupted: bool, code: int) -> None:
    """As numpy's imports swallow one, and then call themselves without end. What else fails is shown as it is."""
    program = (
        "import os, signal, memgraph.cli.main as m, memgraph.__main__ as entry\n"
        "def main():\n"
        f"    if {interrupted}:\n"
        "        try: os.kill(os.getpid(), signal.SIGINT); [0 for _ in range(10**6)]\n"
        "        except BaseException: pass\n"
        "    raise RecursionError('later')\n"
        "m.main = main\nentry.run()\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == code
    assert (done.stderr == "memgraph: interrupted\n") is interrupted
    assert ("RecursionError: later" in done.stderr) is not interrupted
