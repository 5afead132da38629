"""`memgraph monitor`: one line, and an exit code."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from hypothesis import given, settings
from hypothesis import strategies as st

from memgraph.analyze import baseline
from memgraph.cli.main import main
from memgraph.errors import MemgraphError

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
    again = monitor("--update")
    assert again.exit_code == 2 and "overwrite it with --force" in again.output
    assert monitor("--update", "--force").exit_code == 0
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


def test_another_torch_is_said(monitor: Monitor, tmp_path: Path) -> None:
    """Also where nothing moved; and what moved is said to come with it."""
    monitor("--update")
    path = tmp_path / "memgraph.json"
    now = json.loads(path.read_text())
    path.write_text(json.dumps(now | {"torch": "2.11.0"}))
    same = monitor()
    assert same.exit_code == 0 and f"(torch 2.11.0 -> {now['torch']})" in same.output
    less = {**now["peak"], "requested": now["peak"]["requested"] - 2**20}
    path.write_text(json.dumps(now | {"torch": "2.11.0", "peak": less}))
    moved = monitor()
    assert moved.exit_code == 4 and len(moved.output.splitlines()) == 2
    assert moved.output.startswith("moved: +1.000 MiB requested") and "torch 2.11.0 -> " in moved.output
    assert "--update --force writes memgraph.json anew" in moved.output


@settings(max_examples=200, deadline=None)
@given(place=st.integers(0, 400), noise=st.binary(max_size=20), cut=st.booleans())
def test_a_baseline_with_noise_in_it_is_one_error_or_read(place: int, noise: bytes, cut: bool) -> None:
    import tempfile

    good = baseline.written(
        baseline.Baseline(
            {"batch": 8},
            "h200",
            "2.13.0",
            {"requested": 5, "allocated": 6, "reserved": 7},
            1,
            2,
            {"inputs": 3},
            {"x": 4},
        )
    )
    damaged = good[:place] + noise + (b"" if cut else good[place + len(noise) :])
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "memgraph.json"
        path.write_bytes(damaged)
        try:
            found = baseline.read(path)
        except MemgraphError as error:
            assert "\n" not in str(error)  # noqa: PT017
        else:
            assert baseline.moved(found, found).share == 0


@pytest.mark.parametrize("content", ["", "{}", "[]", '{"schema": 1, "peak": 3}', "\x00", '{"schema": 1, "extra": 2}'])
def test_a_damaged_baseline_is_one_line(monitor: Monitor, tmp_path: Path, content: str) -> None:
    (tmp_path / "memgraph.json").write_text(content)
    result = monitor()
    assert result.exit_code == 1 and "no baseline of memgraph" in result.output
    assert len(result.output.strip().splitlines()) == 1


def test_a_newer_baseline_is_not_guessed_at(monitor: Monitor, tmp_path: Path) -> None:
    (tmp_path / "memgraph.json").write_text('{"schema": 99}')
    assert "newer version" in monitor().output
