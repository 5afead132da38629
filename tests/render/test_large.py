"""Pictures of traces that are kept in columns, and of very many phases."""

from __future__ import annotations

from pathlib import Path

import pytest
from click.testing import CliRunner

import memgraph
from memgraph.analyze.bands import BY, bands
from memgraph.analyze.strips import COLUMNS, Window, chart, seen_phases
from memgraph.cli import timeline
from memgraph.cli.main import main
from memgraph.render.html import page
from memgraph.trace import Category, Trace, columns, trace_file
from tests.conftest import Tape


@pytest.fixture
def of_columns(saved: Path, monkeypatch: pytest.MonkeyPatch) -> Trace:
    """The toy trace as one of millions of events is read."""
    monkeypatch.setattr(columns, "MANY", 1)
    monkeypatch.setattr(trace_file, "_LONG", 0)
    return memgraph.load(saved)


def test_a_page_of_columns_is_that_of_the_rows(toy: Trace, of_columns: Trace) -> None:
    assert page(of_columns, chart(of_columns)) == page(toy, chart(toy))


@pytest.mark.parametrize("by", BY)
def test_bands_of_columns_are_those_of_the_rows(by: str, toy: Trace, of_columns: Trace) -> None:
    assert bands(of_columns, by, 3, 0, 12) == bands(toy, by, 3, 0, 12)


def test_phases_that_are_too_short_to_be_seen_are_not_drawn(tape: Tape) -> None:
    """600 phases of two events and one of 1,200: half of 2,400 events. A column is 10 events."""
    for number in range(600):
        tape.phase("short", number)
        tape.free(tape.alloc(512, Category.TEMPORARY))
    tape.phase("long", 1)
    for _ in range(600):
        tape.free(tape.alloc(512, Category.TEMPORARY))
    trace = tape.trace()
    found = seen_phases(trace, Window(0, len(trace.events)))
    assert [phase.name for phase in found] == ["long"]
    assert len(seen_phases(trace, Window(0, 2 * COLUMNS))) == COLUMNS
    assert len(chart(trace, "category").moments) <= COLUMNS + 2


@pytest.mark.parametrize("kind", ["pickle", "json"])
def test_a_file_for_another_viewer_is_bounded(saved: Path, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(timeline, "MOST", 11)  # the toy has twelve events
    done = CliRunner().invoke(main, ["timeline", str(saved), "-o", str(saved.with_suffix(f".{kind}"))])
    assert done.exit_code == 2 and "12 events are more than a viewer" in done.stderr
