"""Writing trace files: whole or not at all, and never over something else unasked."""

from __future__ import annotations

import dataclasses
import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest

import memgraph
from memgraph.errors import MemgraphError, UsageError
from memgraph.trace import Trace


def names(folder: Path) -> list[str]:
    """Of all that lies there, hidden files too."""
    return sorted(path.name for path in folder.iterdir())


def test_nothing_is_overwritten_without_force(toy: Trace, saved: Path) -> None:
    before = saved.read_bytes()
    with pytest.raises(UsageError, match="exists: choose another name, or overwrite it with --force"):
        dataclasses.replace(toy, gpu="h200").save(saved)
    assert saved.read_bytes() == before
    dataclasses.replace(toy, gpu="h200").save(saved, force=True)
    assert memgraph.load(saved).gpu == "h200"


def test_a_file_is_replaced_whole(toy: Trace, saved: Path, tmp_path: Path) -> None:
    """Whoever has the old file open, or linked, keeps it as it was: no byte of it is written to."""
    before = saved.read_bytes()
    (tmp_path / "link").hardlink_to(saved)
    dataclasses.replace(toy, gpu="h200").save(saved, force=True)
    assert (tmp_path / "link").read_bytes() == before != saved.read_bytes()


def test_a_folder_that_is_not_there(toy: Trace, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"t cannot be written: there is no folder .*missing$"):
        toy.save(tmp_path / "missing" / "t")


@pytest.mark.parametrize("force", [True, False])
def test_what_is_no_plain_file_is_left_alone(toy: Trace, tmp_path: Path, force: bool) -> None:
    """Replacing /dev/null with a file would be remembered."""
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "folder").mkdir()
    for path in (tmp_path / "pipe", tmp_path / "folder", Path("/dev/null")):
        with pytest.raises(UsageError, match="is not a plain file: choose another name"):
            toy.save(path, force=force)
    assert stat.S_ISFIFO((tmp_path / "pipe").stat().st_mode) and stat.S_ISCHR(Path("/dev/null").stat().st_mode)


def test_a_name_that_is_too_long(toy: Trace, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="cannot be written: File name too long"):
        toy.save(tmp_path / ("x" * 256))
    toy.save(tmp_path / ("x" * 255))  # the longest that a folder takes


def test_a_disk_that_fills_up_leaves_nothing(toy: Trace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "t"
    toy.save(path)
    before = path.read_bytes()

    def full(self: Path, content: bytes) -> int:
        with open(self, "wb") as stream:
            stream.write(content[:5])
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("memgraph.trace.output_file._written_unseen", lambda *_: False)  # as where Linux cannot
    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(MemgraphError, match=r"cannot write .*t: No space left on device"):
        toy.save(path, force=True)
    assert names(tmp_path) == ["t"] and path.read_bytes() == before


def test_a_process_that_is_killed_while_it_writes_leaves_nothing(saved: Path, tmp_path: Path) -> None:
    code = f"""
import os, memgraph
trace = memgraph.load({str(saved)!r})
os.link = lambda *_, **__: os.kill(os.getpid(), 9)  # all is written, and nothing has a name yet
trace.save({str(tmp_path / "t")!r})
"""
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == -9
    assert names(tmp_path) == [saved.name]


def test_a_link_is_written_through_and_stays(toy: Trace, tmp_path: Path) -> None:
    (tmp_path / "real").write_text("before")
    (tmp_path / "link").symlink_to("real")
    with pytest.raises(UsageError, match="link exists"):
        toy.save(tmp_path / "link")
    assert (tmp_path / "real").read_text() == "before"
    toy.save(tmp_path / "link", force=True)
    assert (tmp_path / "link").is_symlink() and (tmp_path / "real").read_bytes()[:2] == b"\x1f\x8b"


def test_a_link_that_leads_nowhere_is_not_replaced(toy: Trace, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to("nowhere")
    with pytest.raises(UsageError, match="link is a link that leads nowhere"):
        toy.save(tmp_path / "link")
    assert names(tmp_path) == ["link"]
    toy.save(tmp_path / "link", force=True)
    assert (tmp_path / "link").is_symlink() and (tmp_path / "nowhere").is_file()


def test_a_process_that_may_not_write_leaves_nothing(toy: Trace, saved: Path, tmp_path: Path) -> None:
    """The kernel cuts the write itself off after 10 bytes."""
    code = f"""
import resource, memgraph
trace = memgraph.load({str(saved)!r})
resource.setrlimit(resource.RLIMIT_FSIZE, (10, 10))
try:
    trace.save({str(tmp_path / "t")!r})
except memgraph.errors.MemgraphError as error:
    print(error)
"""
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert result.stdout == f"cannot write {tmp_path / 't'}: File too large\n"
    assert names(tmp_path) == [saved.name]


def test_an_unwritable_folder(toy: Trace, tmp_path: Path) -> None:
    """/proc takes no files from anyone, root included."""
    with pytest.raises(MemgraphError, match=r"^cannot write /proc/t: "):
        toy.save("/proc/t")


def test_the_file_has_the_usual_permissions(saved: Path, tmp_path: Path) -> None:
    usual = tmp_path / "usual"
    usual.touch()
    assert saved.stat().st_mode == usual.stat().st_mode


@pytest.mark.parametrize("value", [object(), float("nan"), {1, 2}, {(1, 2): 3}])
def test_a_setting_that_is_not_plain_is_refused(toy: Trace, tmp_path: Path, value: object) -> None:
    with pytest.raises(UsageError, match=r"cannot be saved: .*; keep texts and numbers there$"):
        dataclasses.replace(toy, settings={"note": value}).save(tmp_path / "t")
    assert names(tmp_path) == []
