"""What memgraph uses of torch without a promise is written down, there, and missed in one line where it is gone."""

from __future__ import annotations

import ast
import pkgutil
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

import memgraph
from memgraph.errors import TorchChanged
from memgraph.virtual import private_names
from memgraph.virtual.private_names import EVERY_RUN, SOME_RUNS, check

PACKAGE = Path(memgraph.__file__).parent
PRIVATE = re.compile(r"torch(\.\w+)*\._[a-zA-Z]\w*(\.\w+)*")


def used(source: str) -> Iterator[str]:
    """The private names of torch in a source, as they are imported or written out, shortest first."""
    tree = ast.parse(source)
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "torch":
            yield from (f"{node.module}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.Attribute):
            yield ast.unparse(node)


def private_names_of(source: str) -> set[str]:
    found = {name for name in used(source) if PRIVATE.fullmatch(name) and not name.startswith("torch.ops.")}
    return {name for name in found if "__" not in name}


def test_each_name_is_written_down() -> None:
    written = {*EVERY_RUN, *SOME_RUNS}
    sources = [path.read_text(encoding="utf-8") for path in PACKAGE.rglob("*.py")]
    missing = {
        name
        for source in sources
        for name in private_names_of(source)
        if not any(known == name or known.startswith(f"{name}.") or name.startswith(f"{known}.") for known in written)
    }
    assert not missing, "write them in memgraph/virtual/private_names.py"


@pytest.mark.parametrize("name", EVERY_RUN)
def test_it_is_there(name: str) -> None:
    assert pkgutil.resolve_name(name) is not None


def test_what_is_gone_is_said_at_the_start(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(private_names, "EVERY_RUN", (*EVERY_RUN, "torch._C._no_such_name", "torch._no_module.name"))
    with pytest.raises(TorchChanged) as gone:
        check()
    assert "has no torch._C._no_such_name, torch._no_module.name any more" in str(gone.value)
    assert "memgraph supports 2.11 to 2.15" in str(gone.value) and "\n" not in str(gone.value)
