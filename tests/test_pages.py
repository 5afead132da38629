"""What the pages name is there: files of this repository, and what a reader may import."""

from __future__ import annotations

import importlib
import re
from pathlib import Path

import pytest

from tests import ROOT

PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md")])
FOLDERS = "benchmarks|docs|examples|memgraph|scripts|tests"
_FILE = re.compile(rf"`(?:python )?((?:{FOLDERS})/[\w./-]*)(?::\w+)?`")
_MODULE = re.compile(r"python -m (benchmarks(?:\.\w+)+)")
_IMPORT = re.compile(r"^from (memgraph[\w.]*) import ([\w, ]+)$", re.MULTILINE)
_LINK = re.compile(r"\]\(([\w./-]+)(?:#[\w-]+)?\)")
_DOTTED = re.compile(r"`(memgraph(?:\.[a-z_]+)*)\.(\w+)[`(]")


def missing_files(text: str) -> list[str]:
    """The files and folders that a page names and the repository lacks."""
    modules = (name.replace(".", "/") + ".py" for name in _MODULE.findall(text))
    return [name for name in (*_FILE.findall(text), *modules) if not (ROOT / name).exists()]


def missing_names(text: str) -> list[str]:
    """What a page imports from memgraph, or calls by its full name, and memgraph lacks."""
    named = [(home, name.strip()) for home, names in _IMPORT.findall(text) for name in names.split(",")]
    return [f"{home}.{name}" for home, name in (*named, *_DOTTED.findall(text)) if not _is_there(home, name)]


def broken_links(page: Path, text: str) -> list[str]:
    """Links to files that are not beside the page."""
    return [target for target in _LINK.findall(text) if not (page.parent / target).exists()]


def _is_there(home: str, name: str) -> bool:
    try:
        return hasattr(importlib.import_module(home), name) or bool(importlib.import_module(f"{home}.{name}"))
    except ModuleNotFoundError:
        return False


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_what_a_page_names_is_there(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    assert missing_files(text) == missing_names(text) == broken_links(page, text) == []


def test_what_is_missing_is_noticed() -> None:
    assert missing_files("see `memgraph/trace.py` and `docs/limits.md`, or python -m benchmarks.record_runs") == [
        "memgraph/trace.py", "benchmarks/record_runs.py",
    ]  # fmt: skip
    assert missing_names("from memgraph.study import Study, Loft\n`memgraph.load` `memgraph.attic.load`") == [
        "memgraph.study.Loft", "memgraph.attic.load",
    ]  # fmt: skip
    assert broken_links(ROOT / "README.md", "[limits](docs/limits.md#what), [none](limits.md)") == ["limits.md"]
