"""A script may do what it likes with the process: how it ended is said, and its trace is where it was asked for."""

from __future__ import annotations

import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

import memgraph

USE = "import os, sys, torch\nx = torch.zeros(1000, device='cuda')\n"


def run(folder: Path, body: str) -> subprocess.CompletedProcess[str]:
    (folder / "script.py").write_text(USE + textwrap.dedent(body))
    line = [sys.executable, "-m", "memgraph", "run", "--no-remedies", "-o", "out.memgraph", "script.py"]
    return subprocess.run(line, cwd=folder, capture_output=True, text=True, check=False, timeout=120)


@pytest.mark.parametrize(
    ("body", "code", "said"),
    [
        ("os.mkdir('sub'); os.chdir('sub')", 0, ""),
        ("sys.stdout = None", 0, ""),
        ("sys.stdout.close(); sys.stderr = None", 0, ""),
        ("class Own(BaseException): pass\nraise Own('mine')", 1, "the script failed: Own: mine"),
        ("raise GeneratorExit", 1, "the script failed: GeneratorExit"),
        ("class Odd(Exception):\n    def __str__(self): return 1 / 0\nraise Odd", 1, "Odd: <exception str() failed>"),
        ("if not os.fork(): print('fork'); sys.exit(3)\nassert os.waitstatus_to_exitcode(os.wait()[1]) == 3", 0, ""),
        ("if not os.fork(): raise ValueError\nassert os.waitstatus_to_exitcode(os.wait()[1]) == 1", 0, ""),
    ],
)
def test_what_a_script_does_to_its_process(tmp_path: Path, body: str, code: int, said: str) -> None:
    """1,000 × 4 bytes, whatever comes after; the report stands there once."""
    done = run(tmp_path, body)
    assert done.returncode == code and said in done.stderr.splitlines()[-1] + "\n", done.stderr
    assert memgraph.load(tmp_path / "out.memgraph").peak.requested == 4000
    assert done.stderr.count("a run on NVIDIA") == 1 and done.stdout.count("fork") == body.count("'fork'")
    assert "/memgraph/" not in done.stderr


def test_a_folder_that_the_script_removes_is_said_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "gone").mkdir()
    done = run(tmp_path / "gone", "os.remove('script.py'); os.rmdir(os.getcwd())")
    assert done.returncode == 1 and "Traceback" not in done.stderr
    assert done.stderr.splitlines()[-1].startswith("memgraph: ")
