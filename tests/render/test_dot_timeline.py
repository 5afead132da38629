"""The timeline as a picture: a true chart. The SVG that graphviz makes is parsed, and measured in points."""

from __future__ import annotations

import itertools
import re
import shutil
import xml.etree.ElementTree as ET
from collections import defaultdict
from pathlib import Path
from typing import NamedTuple

import pytest
from click.testing import CliRunner

from memgraph.analyze.module_graph import Layer, Link, ModuleGraph
from memgraph.analyze.strips import Chart, Window, chart, pieces
from memgraph.cli.main import main
from memgraph.render import dot
from memgraph.render.dot_modules import too_large
from memgraph.render.dot_timeline import FINE, scale_of, ticks, timeline
from memgraph.trace import Category, Trace
from memgraph.units import GIB
from tests.conftest import Tape
from tests.render.drawn import run

NAMESPACE = "{http://www.w3.org/2000/svg}"
needs_dot = pytest.mark.skipif(shutil.which("dot") is None, reason="there is no dot: apt-get install graphviz")


class Box(NamedTuple):
    left: float
    top: float
    right: float
    bottom: float


def boxes(svg: bytes) -> dict[str, Box]:
    """Every band's box by its id, from the polygons of the picture."""
    found = {}
    for group in ET.fromstring(svg).iter(f"{NAMESPACE}g"):
        polygon = group.find(f".//{NAMESPACE}polygon")
        if polygon is not None and group.get("id", "").startswith("band-"):
            points = [tuple(map(float, point.split(","))) for point in polygon.get("points", "").split()]
            across, down = zip(*[(x / FINE, y / FINE) for x, y in points], strict=True)
            found[group.get("id", "")] = Box(min(across), min(down), max(across), max(down))
    return found


def drawn(trace: Trace, shown: Chart) -> dict[str, Box]:
    return boxes(dot.rendered(timeline(trace, shown), "svg", fixed=True))


@needs_dot
@pytest.mark.parametrize("window", [None, "backward"])
@pytest.mark.parametrize("by", ["auto", "buffer", "module", "category"])
def test_boxes_are_as_wide_as_lives_and_as_high_as_bytes(by: str, window: str | None) -> None:
    """What graphviz wrote against events and bytes: none is off by more than the whole point it rounds to."""
    trace = run()
    phase = next(phase for phase in trace.phases if phase.name == window) if window else None
    shown = chart(trace, by, 12, Window(phase.start, phase.stop) if phase else None)
    scale, found = scale_of(shown), drawn(trace, shown)
    parts = pieces(shown)
    assert len(found) == len(parts)
    for place, piece in enumerate(parts):
        box = found[f"band-{piece.band}-{place}"]
        assert box.right - box.left == pytest.approx((piece.stop - piece.start) * scale.across, abs=1 / FINE)
        assert box.bottom - box.top == pytest.approx(piece.height * scale.up, abs=1 / FINE)


@needs_dot
def test_no_two_boxes_overlap_and_the_highest_stack_is_the_peak() -> None:
    trace = run()
    shown = chart(trace, "kind", 16)
    scale, found = scale_of(shown), drawn(trace, shown)
    columns: dict[float, list[Box]] = defaultdict(list)
    edges = sorted({edge for box in found.values() for edge in (box.left, box.right)})
    for left, right in itertools.pairwise(edges):
        if right - left > 0.2:
            columns[left] = [box for box in found.values() if box.left <= left + 0.1 and box.right >= right - 0.1]
    for stack in columns.values():
        stack.sort(key=lambda box: -box.bottom)
        for below, above in itertools.pairwise(stack):
            assert above.bottom == pytest.approx(below.top, abs=1.5 / FINE)  # on top of it: no gap, no overlap
    highest = max(sum(box.bottom - box.top for box in stack) for stack in columns.values())
    assert highest == pytest.approx(trace.peak.requested * scale.up, abs=0.5)


def test_the_boxes_at_the_peak_sum_to_it_exactly() -> None:
    trace = run()
    for by in ("buffer", "kind", "block", "module", "op", "category"):
        shown = chart(trace, by, 10)
        at = [piece for piece in pieces(shown) if piece.start <= trace.peak.event < piece.stop]
        assert sum(piece.height for piece in at) == trace.peak.requested
        assert shown.totals[shown.top] == trace.peak.requested


def test_a_single_buffer_is_cut_where_it_lives(tape: Tape) -> None:
    """Three buffers, drawn one by one: [0, 4), [1, 3), [2, 5) of five events."""
    tape.phase("forward", 1)
    tape.op("aten.a.default")
    tape.segment(4096)
    first, second = tape.alloc(1024, Category.ACTIVATION), tape.alloc(512, Category.ACTIVATION)
    tape.alloc(2048, Category.PARAMETER, "weight")
    tape.free(second)
    tape.free(first)
    shown = chart(tape.trace(), "buffer", 10)
    spans = {(band.buffers[0], piece.start, piece.stop, piece.height)
             for piece in pieces(shown) for band in [shown.bands[piece.band]]}  # fmt: skip
    widths = defaultdict(int)
    for buffer, start, stop, _ in spans:
        widths[buffer] += stop - start
    assert dict(widths) == {0: 4, 1: 2, 2: 3}
    assert {(buffer, height) for buffer, _, _, height in spans} == {(0, 1024), (1, 512), (2, 2048)}


def test_parameters_and_optimizer_state_are_at_the_bottom() -> None:
    order = [band.category for band in chart(run(), "category").bands]
    assert order[:3] == [Category.PARAMETER, Category.OPTIMIZER, Category.GRADIENT]


def test_round_figures() -> None:
    assert ticks(10 * GIB) == [0, 2 * GIB, 4 * GIB, 6 * GIB, 8 * GIB, 10 * GIB]
    assert ticks(0) == [0]


@needs_dot
def test_a_hostile_name_is_a_name(tape: Tape) -> None:
    """Graphviz's own escapes and markup in a module's name are shown as they are."""
    name = '<b>"x"</b> \\N \\G }; evil [label=<i>'
    tape.phase("forward", 1)
    tape.op("aten.a.default", module=name)
    tape.segment(4096)
    tape.alloc(1024, Category.ACTIVATION)
    trace = tape.trace()
    svg = dot.rendered(timeline(trace, chart(trace)), "svg", fixed=True)
    titles = [element.get("{http://www.w3.org/1999/xlink}title") or "" for element in ET.fromstring(svg).iter()]
    assert any(name.replace("\\", "\u29f5") in title for title in titles)
    assert not re.search(rb"<b>|<i>", svg)


@needs_dot
@pytest.mark.parametrize(
    ("kind", "start"), [("png", b"\x89PNG"), ("pdf", b"%PDF"), ("svg", b"<?xml"), ("dot", b"digraph")]
)
def test_each_kind_of_file(kind: str, start: bytes, tmp_path: Path) -> None:
    run().save(tmp_path / "a.memgraph")
    result = CliRunner().invoke(main, ["timeline", str(tmp_path / "a.memgraph"), "-o", str(tmp_path / f"a.{kind}")])
    assert result.exit_code == 0, result.output
    assert (tmp_path / f"a.{kind}").read_bytes().startswith(start)


def test_without_dot_only_a_dot_can_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run().save(tmp_path / "a.memgraph")
    monkeypatch.setenv("PATH", str(tmp_path))
    refused = CliRunner().invoke(main, ["timeline", str(tmp_path / "a.memgraph"), "-o", str(tmp_path / "a.svg")])
    assert refused.exit_code == 1
    assert "install graphviz" in refused.output and not (tmp_path / "a.svg").exists()
    written = CliRunner().invoke(main, ["timeline", str(tmp_path / "a.memgraph"), "-o", str(tmp_path / "a.dot")])
    assert written.exit_code == 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["-o", "a.gif"], ".gif"),
        (["-o", "a.dot", "--phase", "backwards"], "did you mean"),
        (["-o", "a.dot", "--phase", "backward:7"], "there is no backward in step 7"),
        (["-o", "a.dot", "--around", "soon"], "write peak, or the number of an event"),
        (["-o", "a.dot", "--around", "99999999"], "is not in what is drawn"),
        (["-o", "a.html", "--modules"], "--modules is for a picture"),
        (["-o", "a.dot", "--overlay", "a.memgraph"], "--overlay is for a page"),
    ],
)
def test_wrong_input_is_one_line(
    arguments: list[str], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    run().save("a.memgraph")
    result = CliRunner().invoke(main, ["timeline", "a.memgraph", *arguments])
    assert result.exit_code == 2, result.output
    assert message in result.output
    assert [path.name for path in tmp_path.iterdir()] == ["a.memgraph"]


def layered(count: int, skips: int) -> ModuleGraph:
    """So many layers in a chain, and links that pass over others."""
    layers = tuple(Layer(f"layer{place}", (f"layer{place}",), place, 1) for place in range(count))
    chain = tuple(Link(place, place + 1, 1) for place in range(count - 1))
    return ModuleGraph(1, layers, chain + tuple(Link(0, 2 + place, 1) for place in range(skips)), (), 0)


@pytest.mark.parametrize(
    ("count", "skips", "drawn"), [(2, 0, True), (200, 100, True), (201, 0, False), (150, 101, False), (1000, 0, False)]
)
def test_a_picture_of_modules_that_nobody_can_read_is_refused(count: int, skips: int, drawn: bool) -> None:
    reason = too_large(layered(count, skips))
    assert (reason == "") is drawn
    assert drawn or f"{count:,} modules that differ, with {skips:,} links past others" in reason


def test_it_is_refused_before_graphviz_is_asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run().save(tmp_path / "a.memgraph")
    monkeypatch.setattr("memgraph.analyze.module_graph.module_graph", lambda _trace: layered(1000, 0))
    monkeypatch.setattr("memgraph.children.run", lambda *_: pytest.fail("graphviz was asked"))
    words = ["timeline", str(tmp_path / "a.memgraph"), "-o"]
    refused = CliRunner().invoke(main, [*words, str(tmp_path / "a.svg"), "--modules"])
    assert refused.exit_code == 1 and "1,000 modules" in refused.output
    page = CliRunner().invoke(main, [*words, str(tmp_path / "a.html")])
    assert page.exit_code == 0 and "the page is without the picture of the modules: 1,000 modules" in page.output
    written = CliRunner().invoke(main, [*words, str(tmp_path / "a.dot"), "--modules"])
    assert written.exit_code == 0 and (tmp_path / "a.dot").read_text().count("layer-") == 1000
