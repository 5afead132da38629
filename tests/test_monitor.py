"""`memgraph monitor`: one line, and an exit code."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from memgraph.cli.main import main

Monitor = Callable[..., Result]
RUN = ["--batch", "1", "--seq", "128", "--gpu", "rtx3060", "--set", "lm_n_blocks=1", "--set", "vit_n_blocks=1"]


@pytest.fixture
def monitor(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Monitor:
    monkeypatch.chdir(tmp_path)
    return lambda *arguments: CliRunner().invoke(main, ["monitor", *RUN, *arguments])


def test_from_baseline_to_moved(monitor: Monitor, tmp_path: Path) -> None:
    missing = monitor()
    assert missing.exit_code == 2 and "--update makes one" in missing.output
    assert monitor("--update").exit_code == 0
    baseline = json.loads((tmp_path / "memgraph.json").read_text())
    assert baseline["peak"]["requested"] > 0 and baseline["settings"]["batch"] == 1
    same = monitor()
    assert same.exit_code == 0 and same.output.startswith("unchanged: ")
    other = monitor("--optimizer", "sgd")
    assert other.exit_code == 4
    assert other.output.startswith("moved: -") and "optimizer adamw -> sgd" in other.output.splitlines()[0]


def test_a_tolerance(monitor: Monitor) -> None:
    monitor("--update", "--optimizer", "adamw")
    moved = monitor("--optimizer-impl", "loop", "--format", "json")
    share = json.loads(moved.output[: moved.output.rindex("}") + 1])["share"]
    assert moved.exit_code == 4 and share > 0
    allowed = monitor("--optimizer-impl", "loop", "--tolerance", f"{100 * share + 0.1:.1f}%")
    assert allowed.exit_code == 0 and allowed.output.startswith("within the tolerance: ")


@pytest.mark.parametrize("content", ["", "{}", "[]", '{"schema": 1, "peak": 3}', "\x00", '{"schema": 1, "extra": 2}'])
def test_a_damaged_baseline_is_one_line(monitor: Monitor, tmp_path: Path, content: str) -> None:
    (tmp_path / "memgraph.json").write_text(content)
    result = monitor()
    assert result.exit_code == 1 and "no baseline of memgraph" in result.output
    assert len(result.output.strip().splitlines()) == 1


def test_a_newer_baseline_is_not_guessed_at(monitor: Monitor, tmp_path: Path) -> None:
    (tmp_path / "memgraph.json").write_text('{"schema": 99}')
    assert "newer version" in monitor().output
