"""A trace in a notebook: its curve and its first screen, with nothing to fetch."""

from __future__ import annotations

import xml.etree.ElementTree as ET

from memgraph.trace import Trace


def test_a_trace_shows_its_curve_and_its_verdict(toy: Trace) -> None:
    html = toy._repr_html_()
    root = ET.fromstring(html)
    assert root.find(".//{http://www.w3.org/2000/svg}polygon") is not None
    (text,) = root.findall("pre")
    assert "Fits: " in (text.text or "")
    assert "4.199 KiB" in (text.text or "")  # 4300 bytes
    assert "src=" not in html and "href=" not in html


def test_an_empty_one_has_no_curve(empty: Trace) -> None:
    assert "<svg" not in empty._repr_html_()
