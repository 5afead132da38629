"""A temporary folder is gone when its process is, and no process is left that waited for it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import textwrap
import time
from pathlib import Path

import pytest

from memgraph.errors import MemgraphError
from memgraph.temporary import temporary_folder
from tests.test_children import wait_for

BUSY = """
    import pathlib, sys, time
    from memgraph.temporary import temporary_folder
    with temporary_folder() as folder:
        (folder / "inside").mkdir()
        (folder / "inside" / "file").touch()
        pathlib.Path(sys.argv[1]).write_text(str(folder))
        time.sleep(600)
"""


def watchers(folder: Path) -> list[str]:
    """Processes that have the folder's name among their words."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            words = path.read_bytes().decode(errors="replace").split("\0")
        except OSError:
            continue
        found += [path.parent.name] if str(folder) in words else []
    return found


def test_a_folder_is_there_and_gone() -> None:
    with temporary_folder("memgraph-here-") as folder:
        (folder / "file").touch()
        assert folder.parent == Path(tempfile.gettempdir()) and folder.name.startswith("memgraph-here-")
    assert not folder.exists()
    with pytest.raises(ZeroDivisionError), temporary_folder() as folder:
        raise ZeroDivisionError
    assert not folder.exists()


def test_a_folder_is_made_beside_a_file(tmp_path: Path) -> None:
    with temporary_folder(".part-", beside=tmp_path) as folder:
        assert folder.parent == tmp_path
    with pytest.raises(FileNotFoundError), temporary_folder(beside=tmp_path / "none"):
        pass


@pytest.mark.skipif(sys.platform != "linux", reason="processes are looked for in /proc")
@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGKILL, signal.SIGHUP, signal.SIGINT])
@pytest.mark.parametrize("send", [os.kill, os.killpg])
def test_a_folder_ends_with_its_process(how: signal.Signals, send: object, tmp_path: Path) -> None:
    assert callable(send)
    name = tmp_path / "name"
    process = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(BUSY), str(name)], stderr=subprocess.DEVNULL, start_new_session=True
    )
    assert wait_for(lambda: name.exists() and name.read_text())
    folder = Path(name.read_text())
    assert folder.exists()
    send(process.pid, how)
    process.wait()
    assert wait_for(lambda: not folder.exists() and not watchers(folder), 10)


def test_who_waits_for_its_children_does_not_wait_for_the_watcher() -> None:
    """As a script does that starts processes of its own, and waits for any until there is none."""
    code = """
        import os
        from memgraph.temporary import temporary_folder
        with temporary_folder():
            try:
                os.wait()
            except ChildProcessError:
                print("none")
    """
    before = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)], capture_output=True, text=True, timeout=60, check=True
    )
    assert done.stdout == "none\n" and time.monotonic() - before < 60


def test_a_fork_leaves_the_folder_to_who_made_it() -> None:
    with temporary_folder() as folder:
        child = os.fork()
        if not child:
            try:
                with temporary_folder() as other:
                    pass
                raise SystemExit  # as a script that forks ends in its child: through what its parent opened
            except BaseException:
                os._exit(other.exists())
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        assert folder.exists()
    assert not folder.exists()


def test_where_no_folder_can_be_made_it_says_so(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "none"))
    with (
        pytest.raises(MemgraphError, match="no temporary folder can be made: No such file or directory; set TMPDIR"),
        temporary_folder(),
    ):
        pass
