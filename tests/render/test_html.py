"""The page, as Chromium shows it."""

from __future__ import annotations

import dataclasses
import hashlib
import re
from collections.abc import Iterator
from importlib import resources
from pathlib import Path

import pytest

from memgraph.analyze.attribution import consumers
from memgraph.analyze.strips import chart
from memgraph.render.html import LIBRARY, page
from memgraph.trace import Category, Trace
from tests.conftest import Tape
from tests.render.browser import Browser, browser, needs_browser
from tests.render.drawn import run

EVIL = "<img src=x onerror=\"document.title='owned'\">"


@pytest.fixture(scope="module")
def chromium() -> Iterator[Browser]:
    with browser() as opened:
        yield opened


def written(folder: Path, trace: Trace, **more: object) -> Path:
    path = folder / "step.html"
    path.write_bytes(page(trace, chart(trace, "kind", 16), **more))  # type: ignore[arg-type]
    return path


def text(page_: Browser, name: str) -> str:
    return str(page_.run(f"document.getElementById('{name}').textContent"))


def table(page_: Browser) -> list[int]:
    """The bytes of each row."""
    script = "[...document.querySelectorAll('#alive tbody td:first-child')].map(cell => Number(cell.dataset.bytes))"
    return [int(size) for size in page_.run(script)]


def at_cursor(page_: Browser) -> int:
    """The event that the page says the cursor is at."""
    found = re.search(r"event ([\d,]+)", text(page_, "now"))
    assert found
    return int(found[1].replace(",", ""))


def place(page_: Browser, event: float, size: float) -> tuple[float, float]:
    """Where in the window an event and a height are."""
    edges = page_.run("(() => { const e = document.querySelector('.u-over').getBoundingClientRect();"
                      "return [e.left, e.top, e.width, e.height]; })()")  # fmt: skip
    left, top, width, height = edges
    trace = run()
    highest = 1.08 * trace.peak.requested
    return left + width * event / (len(trace.events) - 1), top + height * (1 - size / highest)


@needs_browser
def test_it_opens_at_the_peak_and_asks_for_nothing(chromium: Browser, tmp_path: Path) -> None:
    trace = run()
    chromium.open(written(tmp_path, trace))
    assert at_cursor(chromium) == trace.peak.event
    assert "(the peak)" in text(chromium, "now")
    assert sum(table(chromium)) == trace.peak.requested
    assert table(chromium)[0] == max(row.bytes for row in consumers(trace))
    assert chromium.errors == []
    assert [url for url in chromium.requests if not url.startswith(("file:", "data:"))] == []
    assert len([url for url in chromium.requests if url.startswith("file:")]) == 1


@needs_browser
def test_pointing_at_a_box_tells_its_story(chromium: Browser, tmp_path: Path) -> None:
    """The parameters lie at the bottom: half a weight's height up is the first of them."""
    trace = run()
    chromium.open(written(tmp_path, trace))
    event = (trace.phases[-2].start + trace.phases[-2].stop) // 2
    chromium.move(*place(chromium, event, trace.after_load.requested / 2))
    chosen = int(chromium.run("document.getElementById('story').dataset.buffer"))
    assert trace.buffers[chosen].category is Category.PARAMETER
    story = text(chromium, "story")
    assert trace.buffers[chosen].name in story and f"{trace.buffers[chosen].size:,} bytes" in story
    life = trace.lives[chosen]
    assert f"event {life.start:,}" in story
    below = [
        i for i in trace.live_at(at_cursor(chromium)) if trace.buffers[i].category is Category.PARAMETER and i < chosen
    ]
    up = sum(trace.buffers[i].size for i in below)
    pixel = 1.08 * trace.peak.requested / 400
    assert up - pixel <= trace.after_load.requested / 2 <= up + trace.buffers[chosen].size + pixel


@needs_browser
def test_the_table_sums_to_the_curve_wherever_the_cursor_is(chromium: Browser, tmp_path: Path) -> None:
    trace = run()
    chromium.open(written(tmp_path, trace))
    for part in (0.1, 0.35, 0.6, 0.85):
        chromium.move(*place(chromium, part * len(trace.events), 0.1 * trace.peak.requested))
        assert sum(table(chromium)) == trace.usage[0][at_cursor(chromium)]


@needs_browser
def test_keys_move_the_cursor(chromium: Browser, tmp_path: Path) -> None:
    trace = run()
    chromium.open(written(tmp_path, trace))
    chromium.run("document.getElementById('chart').focus()")
    chromium.press("ArrowLeft")
    assert at_cursor(chromium) == trace.peak.event - 1
    chromium.press("p")
    assert at_cursor(chromium) == trace.peak.event
    chromium.press("ArrowUp")
    assert int(chromium.run("document.getElementById('story').dataset.buffer")) >= 0
    chromium.press("End")
    assert at_cursor(chromium) == len(trace.events) - 1


@needs_browser
def test_columns_sort_and_all_rows_can_be_shown(chromium: Browser, tmp_path: Path) -> None:
    trace = run()
    chromium.open(written(tmp_path, trace))
    chromium.run("document.getElementById('all').click()")
    sizes = table(chromium)
    assert sizes == sorted(sizes, reverse=True) and len(sizes) == len(consumers(trace))
    chromium.run("document.querySelector('#alive th button').click()")
    assert table(chromium) == sorted(sizes)


@needs_browser
def test_dark_and_light(chromium: Browser, tmp_path: Path) -> None:
    path = written(tmp_path, run())
    colours = []
    for dark in (False, True):
        chromium.open(path, dark=dark)
        colours.append(chromium.run("getComputedStyle(document.body).backgroundColor"))
        assert chromium.errors == []
    light, night = (sum(map(int, re.findall(r"\d+", colour)[:3])) for colour in colours)
    assert light > 600 and night < 150
    chromium.run("document.getElementById('theme').click()")
    assert chromium.run("getComputedStyle(document.body).backgroundColor") == colours[0]


@needs_browser
def test_it_stays_at_the_peak_when_the_window_changes(chromium: Browser, tmp_path: Path) -> None:
    trace = run()
    chromium.open(written(tmp_path, trace), width=420)
    assert at_cursor(chromium) == trace.peak.event
    assert chromium.run("document.documentElement.scrollWidth") <= 420


@needs_browser
def test_a_name_cannot_inject_anything(chromium: Browser, tmp_path: Path, tape: Tape) -> None:
    """In a module, a source line, a buffer's name, a setting, an assumption: it is shown as text."""
    tape.phase("forward", 1)
    tape.op(f"aten.{EVIL}.default", module=EVIL, source=f"{EVIL}.py:1")
    tape.segment(4096)
    tape.alloc(1024, Category.PARAMETER, f"</script><script>document.title='owned'</script>{EVIL}")
    tape.alloc(512, Category.ACTIVATION)
    trace = tape.trace(settings={"model": EVIL}, assumptions=(EVIL,), unknown_ops=(EVIL,))
    chromium.open(written(tmp_path, trace))
    assert chromium.run("document.title") != "owned"
    assert chromium.run("document.querySelectorAll('img[src=x]').length") == 0
    assert EVIL in text(chromium, "alive")
    assert EVIL in chromium.run("document.querySelector('h1').textContent")
    assert chromium.errors == []


@needs_browser
def test_another_run_is_laid_over(chromium: Browser, tmp_path: Path) -> None:
    trace = run()
    other = dataclasses.replace(trace, origin="measured", settings={**trace.settings, "checkpoint": "blocks"})
    chromium.open(written(tmp_path, trace, overlays=(other,)))
    labels = chromium.run("[...document.querySelectorAll('#lines label')].map(label => label.textContent)")
    assert labels == ["requested", "allocated", "reserved", "measured: checkpoint blocks"]
    assert chromium.errors == []


def test_the_page_is_small_and_has_no_address_in_it() -> None:
    content = page(run(), chart(run(), "kind", 16))
    assert len(content) < 3_000_000
    assert not re.search(rb"(src|href)=.?https?:", content)


def test_what_is_vendored_is_what_was_published() -> None:
    """SHA-256 of the files of uPlot 1.6.32 in the npm registry."""
    folder = resources.files("memgraph.render") / "assets"
    sums = {name: hashlib.sha256((folder / name).read_bytes()).hexdigest()[:16]
            for name in (f"{LIBRARY}.iife.min.js", f"{LIBRARY}.min.css")}  # fmt: skip
    assert sums == {f"{LIBRARY}.iife.min.js": "19c8d4c6ad88929a", f"{LIBRARY}.min.css": "df630c6a8d6f8eea"}
