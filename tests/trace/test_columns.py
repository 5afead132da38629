"""Many numbers give what few give: columns read apart, and sums by numpy. And no file makes a reader take more than its
own size allows."""

from __future__ import annotations

import dataclasses
import gzip
import json
import subprocess
import sys
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

import memgraph
from memgraph.errors import TraceError
from memgraph.trace import Trace, columns, trace_file
from tests.fuzzing import seeded


@pytest.fixture
def many(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every trace counts as one of millions of events, every file as one of many megabytes."""
    monkeypatch.setattr(columns, "MANY", 1)
    monkeypatch.setattr(trace_file, "_LONG", 0)


def facts(path: Path) -> object:
    trace = memgraph.load(path)
    return trace, trace.spans, trace.usage, trace.peak, list(trace.live_at(trace.peak.event))


def test_a_trace_of_many_is_the_trace(toy: Trace, saved: Path, request: pytest.FixtureRequest) -> None:
    few = facts(saved)
    request.getfixturevalue("many")
    assert facts(saved) == few and memgraph.load(saved) == toy


def wrong(path: Path) -> str:
    try:
        memgraph.load(path)
    except TraceError as error:
        return str(error)
    return ""


@seeded(150)
@given(st.data())
def test_what_is_wrong_with_many_is_wrong_with_few(saved: Path, data: st.DataObject) -> None:
    """A number anywhere in the columns is replaced: either way the file is refused, or neither."""
    content = json.loads(gzip.decompress(saved.read_bytes()))
    column = data.draw(st.sampled_from([c for key in ("ops", "buffers", "events") for c in content[key] if c]))
    column[data.draw(st.integers(0, len(column) - 1))] = data.draw(
        st.sampled_from([-1, 0, 1, 5, 10**6, 2**40, 2**62, 2**63, -(2**63) - 1, 1.5, "x", None, [], True])
    )
    path = saved.with_name("changed")
    path.write_bytes(gzip.compress(json.dumps(content, separators=(",", ":")).encode()))
    few = wrong(path)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(columns, "MANY", 1)
        patch.setattr(trace_file, "_LONG", 0)
        assert bool(wrong(path)) is bool(few), few


@pytest.mark.usefixtures("many")
@pytest.mark.parametrize("settings", [{"events": [[1], [2]]}, {'x","events":[[': 1}, {"a": ',"ops":[[1],[2]]'}])
def test_a_setting_that_looks_like_a_column_is_a_setting(toy: Trace, settings: object, tmp_path: Path) -> None:
    trace = dataclasses.replace(toy, settings=settings)
    trace.save(tmp_path / "t")
    assert memgraph.load(tmp_path / "t") == trace


BOMBS = {
    "objects": b'{"schema":1,"texts":[' + b"{}," * 40_000_000,
    "brackets": b"[" * 100_000_000,
    "closed": b"]" * 100_000_000,
    "spaces": b" " * 100_000_000,
    "digits": b"9" * 100_000_000,
    "text": b'{"schema":1,"gpu":"' + b"x" * 100_000_000,
    "numbers": b'{"schema":1,"events":[[' + b"1," * 50_000_000,
}


@pytest.mark.parametrize("kind", BOMBS)
def test_a_file_that_swells_is_refused_at_once(kind: str, tmp_path: Path) -> None:
    """100 MB of text in a tenth of a megabyte: no more than 64 times the file and a megabyte is unpacked."""
    path = tmp_path / "bomb.memgraph"
    path.write_bytes(gzip.compress(BOMBS[kind], 6))
    code = f"""
import resource, memgraph
memgraph.load
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
try:
    memgraph.load({str(path)!r})
except memgraph.errors.TraceError as error:
    print(str(error).count(chr(10)), "unpacks to more than" in str(error))
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""
    begun = time.monotonic()
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    lines, unpacks, taken = done.stdout.split()
    assert (lines, unpacks) == ("0", "True")
    assert int(taken) * 1024 < 2 * (2**20 + 64 * path.stat().st_size) + 32 * 2**20 and time.monotonic() - begun < 30


def test_a_plain_file_of_brackets_is_refused(tmp_path: Path) -> None:
    for sign in (b"]", b"[", b"\x80", b"memghook"):
        path = tmp_path / "brackets"
        path.write_bytes(sign * (10_000_000 // len(sign)))
        assert wrong(path).count("\n") == 0 and wrong(path)
