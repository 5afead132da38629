"""Any command line ends with one of the codes that are written down, and an error is one line."""

from __future__ import annotations

import random
import sys
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from memgraph.cli.main import _COMMANDS, main
from tests.fuzzing import seeds

VALUES = [
    "", "0", "1", "-1", "2.5", "nan", "inf", "1e400", "9" * 30, "x", "x" * 3000, "24GiB", "1%", "-5%", "a=b", "=", "a=",
    "lm_n_blocks=x", "\x1b[2J", "\u202e", "\udc80", "h200", "rtx3090", "json", "table", "none", "blocks", "9" * 5000,
    "/dev/null", ".", "/proc/self/mem", "no_such_file", "no.such:module", "transformers:", "transformers:/nowhere",
    "[", "a:[", "--", "-o", "dp=2", "dp=0,tp=x", "2.11", "2.99", "1,2,,3", "8-64", "~", "/", "law", "bf16",
    "out.html", "out.svg", "out.pickle", "link", "CUDA out of memory. Tried to allocate 1.2.3 GiB",
]  # fmt: skip
CODES = {0, 1, 2, 3, 4}


def flags(command: str) -> list[str]:
    found = main.get_command(click.Context(main), command)
    assert found is not None
    return [flag for parameter in found.params if isinstance(parameter, click.Option) for flag in parameter.opts]


def line(r: random.Random, files: list[str]) -> list[str]:
    """A command that sees files, or says at once that it is not called so; options and values in any order."""
    command = r.choice(list(_COMMANDS))
    words = [command]
    for _ in range(r.randint(0, 6)):
        kind = r.random()
        if kind < 0.4:
            words.append(r.choice(flags(command)))
        elif kind < 0.8:
            words.append(r.choice(VALUES))
        else:
            words.append(r.choice(files))
    return words


def stub(patch: pytest.MonkeyPatch) -> None:
    """What would take minutes says that it was reached: what is tried here is how a line is understood."""

    def reached(*_: object, **__: object) -> None:
        raise click.ClickException("reached")

    patch.setattr("memgraph.study.workers.Workers.ask", lambda *_: None)
    for name in (  # what others inherit from comes after them
        "memgraph.study.script_advice.advise_script", "memgraph.api.predict", "memgraph.api.run_script",
        "memgraph.api.record_steps", "memgraph.api.record_script", "memgraph.api.record_times",
        "memgraph.study.study.with_neighbours", "memgraph.study.study.neighbours_of", "memgraph.study.study.Study",
        "memgraph.study.advisor.Advisor", "memgraph.study.planner.Planner", "memgraph.study.run.run",
    ):  # fmt: skip
        patch.setattr(name, reached)


def check(seed: int, saved: Path) -> str:
    """One line, called in the folder of the file."""
    words = line(random.Random(seed), [str(saved), saved.name, "out.json", "out.memgraph"])
    kept = saved.read_bytes()
    told, sys.argv = sys.argv, ["memgraph", *words]
    try:
        result = CliRunner().invoke(main, words)
    finally:
        sys.argv = told
    said = f"seed {seed}: {words}: {result.exception!r} {result.stderr}"
    assert isinstance(result.exception, SystemExit | None), said
    assert result.exit_code in CODES and len(result.stderr) < 3000, said
    if result.exit_code in (1, 2) and result.stderr:
        assert result.stderr.splitlines()[-1].startswith("memgraph: "), said
    if "--force" not in words:
        assert saved.read_bytes() == kept, said
    saved.write_bytes(kept)
    return f"code {result.exit_code}"


def test_any_line_ends_well(saved: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stub(monkeypatch)
    monkeypatch.chdir(saved.parent)
    Path("link").symlink_to("nowhere")
    for seed in seeds(400):
        check(seed, saved)
