"""Files that are damaged anywhere are read as they are, or refused in one line: nothing else happens."""

from __future__ import annotations

import gzip
import random
from collections.abc import Callable
from pathlib import Path

import pytest

import memgraph
from memgraph.errors import MemgraphError
from memgraph.trace import Trace
from tests.fuzz.originals import Original, originals
from tests.fuzzing import seeds

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


NUMBERS = [b"-1", b"999999999999", b"1e9", b"null", b'"x"', b"[]", b"{}", b"0.5", b"NaN", b"1e999", b"9" * 400, b"true",
           b"9" * 5000, b"." * 9, b"[" * 2000]  # fmt: skip


def _another_number(r: random.Random, content: bytearray) -> None:
    places = [place for place, sign in enumerate(content) if 0x30 <= sign <= 0x39]
    if places:
        place = r.choice(places)
        end = next((at for at in range(place, len(content)) if not 0x30 <= content[at] <= 0x39), len(content))
        content[place : r.choice([place + 1, end])] = r.choice(NUMBERS)


def _noise(r: random.Random, content: bytearray) -> None:
    start = r.randrange(len(content))
    content[start : start + 8] = r.randbytes(8)


CHANGES: list[Change] = [_bits, _cut, _without_a_piece, _twice, _another_number, _noise]


def check(seed: int, kinds: list[Original], path: Path) -> str:
    """One damaged file: a trace that is read obeys its laws, for `load` checks them; a refusal is one line."""
    r = random.Random(seed)
    original = r.choice(kinds)
    content = bytearray(original.content)
    r.choice(CHANGES)(r, content)
    path.write_bytes(gzip.compress(content, 1) if original.packed else content)
    try:
        original.read(path)
    except MemgraphError as error:
        said = str(error)
    else:
        return "read"
    assert "\n" not in said and len(said) < 800, f"seed {seed}: {said[:2000]}"
    return "refused"


def test_a_damaged_file_is_read_or_refused(toy: Trace, tmp_path: Path) -> None:
    kinds = originals(toy)
    outcomes = [check(seed, kinds, tmp_path / "damaged") for seed in seeds(800)]
    assert outcomes.count("refused") > len(outcomes) // 3


@pytest.mark.parametrize("content", [b"", b"\x1f\x8b", b"\x80", b"memghook", b"{}", b"[]", b"null", b"\x00" * 100])
def test_what_is_hardly_a_file_is_refused(content: bytes, tmp_path: Path) -> None:
    for path, written in ((tmp_path / "plain", content), (tmp_path / "packed", gzip.compress(content))):
        path.write_bytes(written)
        with pytest.raises(MemgraphError) as error:
            memgraph.load(path)
        assert "\n" not in str(error.value)
