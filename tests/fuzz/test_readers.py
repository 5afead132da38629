"""Files that are damaged anywhere are read as they are, or refused in one line: nothing else happens."""

from __future__ import annotations

import gzip
import random
from collections.abc import Callable
from pathlib import Path

import pytest

import memgraph
from memgraph.errors import MemgraphError
from memgraph.render.snapshot import pickled
from memgraph.trace import Trace
from tests import ROOT
from tests.fuzzing import TIMES, examples

Change = Callable[[random.Random, bytearray], None]


def _bits(r: random.Random, content: bytearray) -> None:
    for _ in range(r.randint(1, 5)):
        content[r.randrange(len(content))] ^= 1 << r.randrange(8)


def _cut(r: random.Random, content: bytearray) -> None:
    del content[r.randrange(len(content)) :]


def _without_a_piece(r: random.Random, content: bytearray) -> None:
    start = r.randrange(len(content))
    del content[start : start + r.randint(1, 100)]


def _twice(r: random.Random, content: bytearray) -> None:
    start = r.randrange(len(content))
    content[start:start] = content[start : start + r.randint(1, 200)]


def _another_number(r: random.Random, content: bytearray) -> None:
    places = [place for place, sign in enumerate(content) if 0x30 <= sign <= 0x39]
    if places:
        place = r.choice(places)
        content[place : place + 1] = r.choice([b"-1", b"999999999999", b"1e9", b"null", b'"x"', b"[]", b"{}", b"0.5"])


def _noise(r: random.Random, content: bytearray) -> None:
    start = r.randrange(len(content))
    content[start : start + 8] = r.randbytes(8)


CHANGES: list[Change] = [_bits, _cut, _without_a_piece, _twice, _another_number, _noise]


def originals(toy: Trace, saved: Path) -> list[tuple[bytes, bool]]:
    """Files of each kind that can be read; whether what is damaged is inside of a compressed one."""
    trace = saved.read_bytes()
    snapshot = (ROOT / "tests" / "data" / "snapshot_h200.pickle").read_bytes()
    return [(gzip.decompress(trace), True), (trace, False), (pickled(toy), False), (snapshot[:20000], False)]


def test_a_damaged_file_is_read_or_refused(toy: Trace, saved: Path) -> None:
    """A trace that is read obeys its laws: `load` checks them."""
    r = random.Random(None if TIMES else 1)
    kinds = originals(toy, saved)
    path = saved.with_name("damaged")
    refused = 0
    for _ in range(examples(600)):
        original, packed = r.choice(kinds)
        content = bytearray(original)
        r.choice(CHANGES)(r, content)
        path.write_bytes(gzip.compress(content, 1) if packed else content)
        try:
            memgraph.load(path)
        except MemgraphError as error:
            said = str(error)
            refused += 1
        else:
            said = ""
        assert "\n" not in said and len(said) < 800, said[:2000]
    assert refused > examples(600) // 2


@pytest.mark.parametrize("content", [b"", b"\x1f\x8b", b"\x80", b"memghook", b"{}", b"[]", b"null", b"\x00" * 100])
def test_what_is_hardly_a_file_is_refused(content: bytes, tmp_path: Path) -> None:
    for path, written in ((tmp_path / "plain", content), (tmp_path / "packed", gzip.compress(content))):
        path.write_bytes(written)
        with pytest.raises(MemgraphError) as error:
            memgraph.load(path)
        assert "\n" not in str(error.value)
