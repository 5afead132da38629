"""Anybody's words: nothing in them commands a terminal or misleads its reader, and they are as wide as they look."""

from __future__ import annotations

import subprocess
import sys
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from memgraph.render.words import fill, shown, tabulate
from tests.fuzzing import seeded


@pytest.mark.parametrize(
    ("text", "seen"),
    [
        ("decoder.blocks.0", "decoder.blocks.0"),
        ("\x1b[2J\x1b]0;title\x07", "\\x1b[2J\\x1b]0;title\\x07"),
        ("\x9b31m", "\\x9b31m"),
        ("a\u202egpj.exe", "a\\u202egpj.exe"),
        ("\u2066x\u2069\u200f", "\\u2066x\\u2069\\u200f"),
        ("zero\u200bwidth\ufeff", "zero\\u200bwidth\\ufeff"),
        ("\ud800", "\\ud800"),
        ("\ue000 \U000f0000", "\\ue000 \\U000f0000"),
        ("two\nlines\tand\ra\x0bcarriage", "two lines and a carriage"),
        ("a\u2028b\x85c", "a\\u2028b\\x85c"),
        ("層.注意 é\u3000x", "層.注意 é x"),
    ],
)
def test_what_is_not_seen_is_shown_as_its_number(text: str, seen: str) -> None:
    assert shown(text) == seen
    assert shown(seen) == seen


@seeded(300)
@given(st.text())
def test_nothing_is_left_that_a_terminal_obeys(text: str) -> None:
    for drawn in (shown(text), fill(text, 20), tabulate([(text, 1)], ("a", "b"), tablefmt="simple")):
        assert all(line.isprintable() for line in drawn.split("\n")), ascii(drawn)


def columns(line: str) -> int:
    return sum(
        0 if unicodedata.combining(sign) else 2 if unicodedata.east_asian_width(sign) in "WF" else 1 for sign in line
    )


def test_columns_stay_below_one_another() -> None:
    rows = [("層注意", "1 B"), ("plain", "22 B"), ("cafe\u0301", "3 B"), ("e\u0301\u0302層\u0301", "4 B")]
    head, rule, *lines = tabulate(rows, ("name", "size"), tablefmt="simple", colalign=("left", "right")).split("\n")
    assert {columns(line) for line in lines} == {columns(rule)} and columns(head) == columns(rule)
    assert [line.split()[0] for line in lines] == [name for name, _ in rows]


def test_a_line_is_as_wide_as_it_may_be() -> None:
    assert fill("層" * 12, 10).split("\n") == ["層" * 5, "層" * 5, "層" * 2]
    assert max(map(columns, fill("注意 force " * 20, 17).split("\n"))) <= 17


@pytest.mark.parametrize("sign", ["0", "\uff10"])
@pytest.mark.parametrize("before", range(12))
def test_a_word_longer_than_a_line_begins_where_the_line_has_room(sign: str, before: int) -> None:
    """Also where none is left: `aaaa aaaa ` is all of ten columns. A wide sign takes two."""
    lines = fill(" ".join(["a" * before, sign * 25, sign * 25]), 10).split("\n")
    widths = [sum(2 if unicodedata.east_asian_width(one) in "WF" else 1 for one in line) for line in lines]
    assert max(widths) <= 10
    assert "".join(lines).replace(" ", "") == "a" * before + sign * 50


@pytest.mark.parametrize(("said", "width"), [("", 80), ("100", 100), ("20", 60), ("99999", 400), ("x", 80), ("-5", 80)])
def test_a_report_is_as_wide_as_the_caller_says(said: str, width: int) -> None:
    code = "from memgraph.render.words import WIDTH; print(WIDTH)"
    done = subprocess.run(
        [sys.executable, "-c", code], env={"COLUMNS": said}, capture_output=True, text=True, check=True
    )
    assert int(done.stdout) == width


def test_a_full_line_takes_nothing_of_a_long_word() -> None:
    """72 + 8 columns, and 80 of a word that is cut only where it is longer than a line."""
    text = fill("0" * 72 + ", torch " + "0" * 81)
    assert [len(line) for line in text.splitlines()] == [79, 80, 1]
