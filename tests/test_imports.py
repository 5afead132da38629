"""Imports run one way, third parties stay in their rooms, and nothing heavy is imported before it is needed."""

from __future__ import annotations

import ast
import graphlib
import subprocess
import sys
from collections.abc import Collection, Iterator
from pathlib import Path

import pytest

import memgraph
from memgraph.trace import Trace
from tests import ROOT

PACKAGE = Path(memgraph.__file__).parent

BASE = {"errors", "units", "children", "small_file", "temporary"}
WAIST = BASE | {"trace"}
MAY_IMPORT = {
    "errors": set(),
    "units": BASE,
    "children": set(),
    "small_file": set(),
    "temporary": {"errors"},
    "mesh": BASE,
    "options": BASE | {"mesh"},
    "trace": WAIST,
    "files": WAIST | {"files", "gpu"},
    "gpu": BASE | {"gpu"},
    "models": BASE | {"mesh", "models"},
    "virtual": WAIST | {"gpu", "virtual"},
    "world": WAIST | {"gpu", "mesh", "virtual", "world"},
    "capture": WAIST | {"files", "gpu", "mesh", "models", "options", "virtual", "world", "capture"},
    "analyze": WAIST | {"files", "gpu", "mesh", "options", "analyze"},
    "plan": WAIST | {"gpu", "analyze", "options", "plan"},
    "render": WAIST | {"gpu", "mesh", "options", "analyze", "plan", "render"},
    "study": WAIST | {"gpu", "mesh", "models", "options", "virtual", "world", "capture", "analyze", "plan", "study"},
    "api": WAIST | {"files", "options", "world", "capture", "plan", "study"},
    "advisor": {"study"},
    "cli": WAIST
    | {"files", "gpu", "mesh", "models", "options", "analyze", "plan", "render", "api", "study", "cli", "__init__"},
    "pytest_plugin": WAIST | {"api", "analyze"},
    "__main__": {"cli"},
    "__init__": WAIST | {"files", "mesh", "options", "api"},
}
"""By the first part of a module's name, its room: what it may see. cli → api → study → capture → {world, virtual} →
trace; cli → render → analyze → trace; gpu and trace see nothing above them, and files see these two."""

ALSO = {"cli.record": {"capture"}, "cli.run": {"capture", "world"}, "plan.apply": {"models"}}
"""Two commands say how a script ended, one as which rank it ran; a plan knows what models keep."""

ROOMS = {
    # api and study.run: in types, and to ask whether a real card is visible
    "torch": ("virtual", "world", "capture", "models", "plan.apply", "plan.chain", "api", "study.run"),
    "networkx": ("plan", "analyze"),
    "graphviz": ("render.dot",),
    "tabulate": ("render.words",),
    "click": ("cli",),
    "tqdm": ("cli",),
    "scipy": ("plan",),
    "numpy": (
        "plan",
        "analyze",
        "files.pickled_bytes",
        "files.pickled_entries",
        "trace.columns",
        "trace.decimals",
        "trace.groups",
    ),
    "transformers": ("models",),
    "safetensors": ("virtual",),
    "matplotlib": ("render",),
    "pytest": ("pytest_plugin",),
}
"""Modules, or packages, that may import each third party."""

AT_TOP = {
    "pytest": ("pytest_plugin",),
    "torch": ("virtual", "world", "capture", "models", "plan.apply", "plan.chain"),
    "click": ("cli",),
    "tabulate": ("render.words",),
}
"""Where it may even be imported when the module is; elsewhere only inside a function, when it is needed."""


def modules() -> dict[str, str]:
    """Each module's name below `memgraph`, and its source."""
    found = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        parts = path.relative_to(PACKAGE).with_suffix("").parts
        found[".".join(parts)] = path.read_text(encoding="utf-8")
    return found


def imported(source: str) -> Iterator[tuple[str, bool]]:
    """The modules that a source imports, and whether it does so at once, rather than in a function or for types."""
    tree = ast.parse(source)
    late = {node for part in ast.walk(tree) if _late(part) for node in ast.walk(part)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((alias.name, node not in late) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = "memgraph" if node.level else ""  # a relative import stays inside
            yield ".".join(filter(None, (base, node.module))), node not in late
            if node.module == "memgraph" or node.level:
                yield from ((f"memgraph.{alias.name}", node not in late) for alias in node.names)


def _late(node: ast.AST) -> bool:
    if isinstance(node, ast.If):
        return isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING"
    return isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)


def wrong_way(name: str, source: str) -> list[str]:
    """The imports of one of our modules that run against the rule."""
    first = name.partition(".")[0]
    allowed = MAY_IMPORT.get(first, set()) | ALSO.get(name, set())
    ours = [target.split(".")[1] for target, _ in imported(source) if target.startswith("memgraph.")]
    return [f"{name} imports {part}" for part in ours if part in MAY_IMPORT and part not in allowed]


def circles(sources: dict[str, str], depth: int | None = None) -> list[str]:
    """A circle of files that import one another, late imports and those for types included; empty if there is none.

    Args:
        sources: by the full name of each module, `memgraph.trace.data`; a package by its own, `memgraph.trace`.
        depth: of what is taken as one, in parts of a name: 2 for rooms; default single files.
    """
    graph: dict[str, set[str]] = {}
    for name, source in sources.items():
        room = _room(name, depth)
        graph.setdefault(room, set()).update({_room(seen, depth) for seen in _files(source, sources.keys())} - {room})
    try:
        graphlib.TopologicalSorter(graph).prepare()
    except graphlib.CycleError as error:
        return list(error.args[1])
    return []


def _room(name: str, depth: int | None) -> str:
    return ".".join(name.split(".")[:depth])


def _files(source: str, known: Collection[str]) -> Iterator[str]:
    """The files among the known that a source imports: `from package import module` is the module, not its package."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name in known)
        elif isinstance(node, ast.ImportFrom) and node.module:
            full = [f"{node.module}.{alias.name}" for alias in node.names]
            yield from (name if name in known else node.module for name in full if {name, node.module} & set(known))


def files_of(folder: str) -> dict[str, str]:
    """The sources below a folder of the repository, by full name."""
    found = {}
    for path in sorted((ROOT / folder).rglob("*.py")):
        name = ".".join(path.relative_to(ROOT).with_suffix("").parts)
        found[name.removesuffix(".__init__")] = path.read_text(encoding="utf-8")
    return found


def out_of_room(name: str, source: str) -> list[str]:
    """The imports of third parties where they do not belong, or before they are needed."""
    complaints = []
    for target, at_once in imported(source):
        party = target.split(".")[0]
        if party in sys.stdlib_module_names or party in ("memgraph", "_typeshed", "__future__"):
            continue
        if not _within(name, ROOMS.get(party, ())):
            complaints.append(f"{name} imports {party}")
        elif at_once and not _within(name, AT_TOP.get(party, ROOMS[party])):
            complaints.append(f"{name} imports {party} at once")
    return complaints


def _within(name: str, rooms: tuple[str, ...]) -> bool:
    return any(name == room or name.startswith((room + ".", room + "_")) for room in rooms)


def test_every_part_has_its_place() -> None:
    parts = {name.partition(".")[0] for name in modules()}
    assert parts <= MAY_IMPORT.keys(), "say in MAY_IMPORT what a new part of the package may see"
    page = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    rooms = {part for part in parts if (PACKAGE / part).is_dir()}
    assert {room for room in rooms if f"`memgraph/{room}/`" not in page} == set(), "a row in docs/architecture.md"


@pytest.mark.parametrize("name", modules())
def test_imports_run_one_way(name: str) -> None:
    assert wrong_way(name, modules()[name]) == []


@pytest.mark.parametrize("folder", ["memgraph", "benchmarks", "tests"])
def test_no_files_import_one_another_in_a_circle(folder: str) -> None:
    assert circles(files_of(folder)) == circles(files_of(folder), depth=2) == []


@pytest.mark.parametrize(
    "sources",
    [
        {"a": "import b", "b": "import a"},
        {"m": "", "m.a": "from m import b", "m.b": "def f():\n    from m import c", "m.c": "from m.a import x"},
        {"m": "from m.a import x", "m.a": "from m import y"},
        {"a": "if TYPE_CHECKING:\n    from b import B", "b": "from a import A"},
    ],
)
def test_a_circle_is_noticed(sources: dict[str, str]) -> None:
    assert len(circles(sources)) > 2


def test_a_circle_of_rooms_is_noticed() -> None:
    sources = {"m.a.x": "import m.b.x", "m.b.x": "", "m.b.y": "import m.a.y", "m.a.y": ""}
    assert circles(sources) == []
    assert len(circles(sources, depth=2)) > 2


def test_what_is_no_circle_passes() -> None:
    assert circles({"m": "from m.a import x", "m.a": "from m import b", "m.b": "import os"}) == []


@pytest.mark.parametrize("name", modules())
def test_third_parties_stay_in_their_rooms(name: str) -> None:
    assert out_of_room(name, modules()[name]) == []


@pytest.mark.parametrize(
    ("name", "source"),
    [
        ("gpu.specs", "from memgraph.trace import Trace"),
        ("study.workers", "from memgraph.api import predict"),
        ("virtual.shim", "from memgraph.capture.real import hook"),
        ("files.any_file", "from memgraph.study.run import run"),
        ("gpu.allocator.caching", "from memgraph.virtual.device import device"),
        ("trace", "import memgraph.analyze.peak"),
        ("trace", "def f():\n    from memgraph import api"),
        ("analyze.peak", "from memgraph.render import table"),
        ("analyze.peak", "from ..render import table"),
        ("analyze.peak", "from memgraph.capture.session import VirtualGpu"),
        ("render.table", "from memgraph.api import predict"),
        ("capture.step", "from memgraph.api import predict"),
        ("virtual.cuda", "from memgraph.capture import recorder"),
        ("models.nanovlm", "from memgraph.options import Options"),
        ("api", "from memgraph.cli.target import to_options"),
        ("plan.solve", "from memgraph.capture.session import VirtualGpu"),
        ("plan.apply", "from memgraph.capture.step import run_steps"),
    ],
)
def test_an_import_against_the_rule_is_noticed(name: str, source: str) -> None:
    assert wrong_way(name, source)


@pytest.mark.parametrize(
    ("name", "source"),
    [
        ("trace", "import torch"),
        ("analyze.peak", "def f():\n    import torch.fx"),
        ("api", "import torch"),
        ("api", "if True:\n    import torch"),
        ("render.table", "import click"),
        ("render.html", "from tabulate import tabulate"),
        ("gpu.allocator", "import numpy"),
        ("plan.solve", "import torch"),
        ("cli.main", "import rich"),
    ],
)
def test_a_third_party_out_of_its_room_is_noticed(name: str, source: str) -> None:
    assert out_of_room(name, source)


@pytest.mark.parametrize(
    ("name", "source"),
    [
        ("api", "def f():\n    import torch"),
        ("models.settings", "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import torch"),
        ("render.words", "from tabulate import tabulate"),
        ("plan.apply", "import torch"),
        ("cli.run", "from memgraph.capture.ended import Ended"),
    ],
)
def test_what_the_rule_allows_passes(name: str, source: str) -> None:
    assert wrong_way(name, source) == out_of_room(name, source) == []


HEAVY = ("torch", "networkx", "numpy", "graphviz", "scipy")


def heavy_after(code: str) -> list[str]:
    """What a fresh interpreter has imported of the heavy ones once the code has run."""
    code += f"\nimport sys\nprint([name for name in {HEAVY} if name in sys.modules], file=sys.stderr)"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return list(ast.literal_eval(result.stderr))


def test_the_measure_can_see_it() -> None:
    assert heavy_after("import numpy") == ["numpy"]


def test_importing_memgraph_imports_nothing_heavy() -> None:
    assert heavy_after("import memgraph\nmemgraph.load\nmemgraph.Trace\nmemgraph.Options\nmemgraph.virtual_gpu") == []


@pytest.mark.parametrize(
    "arguments", ["--help", "--version", "gpus", "analyze --help", "analyze FILE", "analyze --gpu x"]
)
def test_what_needs_no_run_imports_nothing_heavy(arguments: str, toy: Trace, tmp_path: Path) -> None:
    toy.save(tmp_path / "toy.memgraph")
    words = arguments.replace("FILE", str(tmp_path / "toy.memgraph")).split()
    code = f"from memgraph.cli.main import main\ntry: main({words!r})\nexcept SystemExit: pass\nimport sys"
    if words[-1] == "x":  # its error line goes where the measure prints
        code = "import os, sys\nerr, sys.stderr = sys.stderr, open(os.devnull, 'w')\n" + code + "\nsys.stderr = err"
    assert heavy_after(code) == []


def test_public_names_are_there() -> None:
    for name in memgraph.__all__:
        assert getattr(memgraph, name) is not None
    assert set(memgraph.__all__) == set(dir(memgraph))
    with pytest.raises(AttributeError, match="module 'memgraph' has no attribute 'nothing'"):
        memgraph.nothing  # noqa: B018
