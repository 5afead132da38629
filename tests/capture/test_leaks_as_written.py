"""Programs with a cause of memory, as people write them: the first ten lines of the report name the cause, the line and
the remedy."""

from __future__ import annotations

import textwrap
from pathlib import Path

import pytest

from memgraph.api import run_script
from memgraph.render.table import report
from tests.capture.leaks_as_written import HEAD, WRITTEN
from tests.capture.leaks_further import FURTHER

FIRST = 10
"""Lines of a report, after those that say what ran."""


def first_lines(text: str, folder: Path) -> str:
    """Of the report of a program on a card that is not there, as one line."""
    script = folder / "train.py"
    script.write_text(text)
    trace, ended = run_script(str(script), gpu="rtx3090")
    if ended.error is not None:
        raise ended.error
    _, told = report(trace, 5).split("\n\n", 1)
    return " ".join(" ".join(told.splitlines()[:FIRST]).split())


@pytest.mark.parametrize("name", [*WRITTEN, *FURTHER])
def test_the_first_lines_name_cause_line_and_remedy(name: str, tmp_path: Path) -> None:
    program = (WRITTEN | FURTHER)[name]
    text = HEAD + textwrap.dedent(program.text)
    told = first_lines(text, tmp_path)
    assert f"{program.cause}: " in told
    for number, line in enumerate(text.splitlines(), 1):
        assert "# here" not in line or f"/train.py:{number}" in told
    for fact in program.facts:
        assert fact in told
