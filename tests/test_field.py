"""The suite of the field: each script is of a library, and what a run says is held against what is known of it."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from field import run

SCRIPTS = Path(run.HERE, "scripts")


def done(printed: str, report: dict[str, object], code: int = 0) -> subprocess.CompletedProcess[str]:
    return subprocess.CompletedProcess([], code, printed + json.dumps(report, indent=2), "memgraph: no\n")


def report(requested: int, **categories: int) -> dict[str, object]:
    return {"schema": 1, "peak": {"requested": requested}, "categories": categories}


def test_each_script_has_a_library_and_says_what_it_does() -> None:
    scripts = {file.stem for file in SCRIPTS.glob("*.py")} - {"figures", "words"}
    assert scripts == set(run.LIBRARIES)
    assert all(run._about(name) for name in scripts)
    assert run.RECORDED.keys() | run.CASES.keys() | run.BESIDE.keys() <= scripts
    assert not run.RECORDED.keys() & run.BESIDE.keys()


def test_a_figure_that_is_another_fails() -> None:
    told = 'figures: {"parameters": 12}\n'
    assert run._checked("yolo", done(told, report(2**20, parameters=12))) == "1.0 MiB; its parts to the byte"
    assert run._checked("yolo", done(told, report(2**20, parameters=13))).startswith("FAILS: parameters are 12 bytes")
    assert run._checked("yolo", done("", report(0), code=1)) == "FAILS: memgraph: no"
    assert run._checked("metric_learning", done("", report(2**20))).startswith("1.0 MiB; 74.6 MiB on an H200: few of")
    real = run.RECORDED["ppo"]["requested"]
    assert run._checked("ppo", done("", report(real))).endswith(f"on an H200 {real / 2**20:.1f} MiB")
    assert run._checked("ppo", done("", report(real * 102 // 100))).startswith("FAILS")


def test_rows_that_are_not_run_stay() -> None:
    first = run.Outcome("ppo", "2.13.0", 9.4, "1.0 MiB", right=True)
    second = run.Outcome("yolo", "8.4", 20.0, "2.0 MiB", right=True)
    page = run.page([second], run.rows_of(run.page([first], {})))
    assert list(run.rows_of(page)) == ["ppo", "yolo"]
    assert "| torch 2.13.0 | [ppo.py](../field/scripts/ppo.py) | PPO as in" in page


def test_one_of_them_runs_to_its_end_as_on_an_h200() -> None:
    """PPO, whose rollouts, advantages and minibatches are indexed on the card."""
    done = subprocess.run(
        [sys.executable, "-m", "memgraph", "run", "--gpu", "h200", "--torch", "2.11", "--format", "json", "ppo.py"],
        cwd=SCRIPTS, capture_output=True, text=True, check=False, env=run._quiet(),
    )  # fmt: skip
    real = run.RECORDED["ppo"]["requested"]
    assert run._checked("ppo", done) == f"{real / 2**20:.1f} MiB; on an H200 {real / 2**20:.1f} MiB"
