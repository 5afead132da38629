"""What is wrong, as text: of several causes the first ten lines of a report name two, their lines and what to do."""

from __future__ import annotations

from memgraph.analyze.finding import Finding
from memgraph.render.table import plain
from memgraph.render.table_findings import blocks

LONG = "a reason that has more words than a line of a terminal has room for, and goes on, " * 3
COPY = Finding("expanded-copy", "5.0 GiB at a.py:6: a cast.", "a.py:6", LONG, "cast before it is expanded", 5 * 2**30)
GROWS = Finding("growing", "Grows 4.0 MiB a step.", "a.py:9", LONG, "empty `outs` each step", 4 * 2**20)
REFUSED = Finding("out-of-memory", "2.0 GiB were asked for.", "a.py:3", LONG, "--batch-size=26", 0)


def test_one_is_told_at_length() -> None:
    (text,) = blocks([COPY], plain)
    assert text.splitlines()[:2] == ["expanded-copy: 5.0 GiB at a.py:6: a cast.", "  do: cast before it is expanded"]
    assert text.splitlines()[2].startswith("  why: a reason")


def test_of_several_the_remedies_come_first() -> None:
    heads, *reasons = blocks([REFUSED, GROWS, COPY], plain)
    assert heads.splitlines() == [
        "out-of-memory: in one piece, a.py:3", "  do: --batch-size=26",
        "growing: 4.000 MiB a step, a.py:9", "  do: empty `outs` each step",
        "expanded-copy: 5.000 GiB, a.py:6", "  do: cast before it is expanded",
    ]  # fmt: skip
    assert [text.splitlines()[0] for text in reasons] == [
        "out-of-memory: 2.0 GiB were asked for. At a.py:3.", "growing: Grows 4.0 MiB a step. At a.py:9.",
        "expanded-copy: 5.0 GiB at a.py:6: a cast.",
    ]  # fmt: skip
    assert not any("do:" in text for text in reasons)


def test_an_options_name_is_not_broken() -> None:
    (text,) = blocks([REFUSED._replace(help="x" * 70 + " --batch-size=26")], plain)
    assert "--batch-size=26" in text


def test_colour_is_the_names_alone() -> None:
    text = "".join(blocks([GROWS, COPY], lambda colour, name: f"<{colour} {name}>"))
    assert text.count("<red growing>") == text.count("<red expanded-copy>") == 2
