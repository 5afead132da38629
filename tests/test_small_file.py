"""Files that should be small are not read when they are not: a device without an end, a file of gigabytes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from memgraph.analyze import baseline
from memgraph.errors import MemgraphError
from memgraph.models.from_config import read_config
from memgraph.options import Options
from memgraph.plan.plan_file import load_plan
from memgraph.plan.times import load_times
from memgraph.small_file import LARGEST, end_of, read_text

READERS: list[Callable[[Path], object]] = [
    load_plan, load_times, baseline.read,
    lambda path: Options(checkpoint=str(path)), lambda path: read_config(str(path)),
]  # fmt: skip


@pytest.mark.parametrize("read", READERS)
def test_a_file_that_is_far_too_large_is_refused(read: Callable[[Path], object], tmp_path: Path) -> None:
    """Without being read: it has holes for bytes, and more of them than this machine has memory."""
    path = tmp_path / "plan.json"
    with path.open("wb") as file:
        file.truncate(2**40)
    with pytest.raises(MemgraphError) as error:
        read(path)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("content", [b"[" * 10**6, b'{"a":' * 10**6, b"9" * 10**4, b"\xff\xfe", b"", b"null"])
@pytest.mark.parametrize("read", READERS)
def test_what_is_none_is_refused(read: Callable[[Path], object], content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "plan.json"
    path.write_bytes(content)
    with pytest.raises(MemgraphError) as error:
        read(path)
    assert "\n" not in str(error.value) and len(str(error.value)) < 800


def test_text_up_to_a_size(tmp_path: Path) -> None:
    path = tmp_path / "text"
    path.write_bytes("grün".encode())  # 5 bytes
    assert read_text(path, 5) == "grün" and end_of(path, 2) == "\ufffdn" and end_of(path) == "grün"
    with pytest.raises(ValueError, match="more than 4 bytes"):
        read_text(path, 4)
    assert LARGEST == 64 * 2**20
