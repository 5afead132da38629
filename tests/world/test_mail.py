"""Messages between the processes of ranks."""

from __future__ import annotations

from pathlib import Path

import pytest

from memgraph.errors import MemgraphError
from memgraph.world.mail import Mail, runs


def test_messages_come_in_order(tmp_path: Path) -> None:
    first, second = Mail(0, tmp_path, None), Mail(1, tmp_path, None)
    first.announce()
    first.send(1, [1, 2])
    first.send(1, "three")
    assert second.take(0) == [1, 2]
    assert second.take(0) == "three"


def test_who_is_asked_is_started_once(tmp_path: Path) -> None:
    started = []

    def start(rank: int, folder: Path) -> int:
        started.append(rank)
        other = Mail(rank, folder, None)
        other.send(0, "here")
        other.send(0, "again")
        other.ended("")
        return 1

    mail = Mail(0, tmp_path, start)
    assert [mail.take(3), mail.take(3)] == ["here", "again"]
    assert started == [3]
    assert not runs(tmp_path, 3)


@pytest.mark.parametrize(
    ("reason", "message"),
    [
        ("ValueError: boom", "rank 0 waits for a message from rank 1, which failed: ValueError: boom"),
        ("", "rank 0 waits for a message from rank 1, which ended without sending it"),
    ],
)
def test_nobody_waits_for_one_that_has_ended(tmp_path: Path, reason: str, message: str) -> None:
    other = Mail(1, tmp_path, None)
    other.announce()
    other.ended(reason)
    with pytest.raises(MemgraphError, match=message):
        Mail(0, tmp_path, None).take(1)


def test_nor_for_one_that_nobody_starts(tmp_path: Path) -> None:
    with pytest.raises(MemgraphError, match="does not run here"):
        Mail(0, tmp_path, None).take(1)


def test_nor_for_one_that_was_killed(tmp_path: Path) -> None:
    (tmp_path / "runs-1").write_text("999999999")
    with pytest.raises(MemgraphError, match="rank 1"):
        Mail(0, tmp_path, None).take(1)
