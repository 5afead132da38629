"""No process outlives the one that started it, and none holds its output open."""

from __future__ import annotations

import os
import signal
import stat
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest

from memgraph import children

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="processes end with their parent on Linux alone")

WORKERS = """
    import contextlib, os, sys, time
    from memgraph.options import Options
    from memgraph.study import workers as module
    from memgraph.study.workers import Workers
    def sleep(options):
        open(os.path.join(sys.argv[1], str(os.getpid())), "w").close()
        time.sleep(600)
    module.traced = sleep
    with contextlib.closing(Workers(2)) as workers:
        for number in range(2):
            workers.ask(number, Options())
        time.sleep(600)
"""
"""Two workers, each of which says who it is and is then busy for ten minutes."""

DOT = """
    import sys
    from memgraph.render import dot
    dot.rendered(dot.new("slow"), "svg", fixed=False)
"""


def alive(number: int) -> bool:
    """Whether a process runs; one that ended and that nobody has asked about yet does not."""
    try:
        return "\nState:\tZ" not in Path(f"/proc/{number}/status").read_text()
    except OSError:
        return False


def wait_for(condition: object, seconds: float = 60) -> bool:
    assert callable(condition)
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if condition():
            return True
        time.sleep(0.02)
    return False


def started(
    program: str, folder: Path, count: int, environment: dict[str, str]
) -> tuple[subprocess.Popen[bytes], set[int]]:
    """A process, and those that it started, which have written their numbers into the folder."""
    process = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(program), str(folder)], stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        env=os.environ | environment, start_new_session=True,
    )  # fmt: skip
    assert wait_for(lambda: len(list(folder.iterdir())) == count or process.poll() is not None)
    assert process.poll() is None, process.stderr and process.stderr.read()
    return process, {int(path.name) for path in folder.iterdir()}


def end(process: subprocess.Popen[bytes], how: int) -> None:
    """Ended so, its output has an end at once."""
    process.send_signal(how)
    before = time.monotonic()
    process.communicate(timeout=20)
    assert time.monotonic() - before < 10


@pytest.fixture
def slow_dot(tmp_path: Path) -> dict[str, str]:
    """An environment in which `dot` says who it is and takes ten minutes."""
    program = tmp_path / "bin" / "dot"
    program.parent.mkdir()
    program.write_text(f"#!/bin/sh\n: > {tmp_path}/numbers/$$\nexec sleep 600\n")
    program.chmod(program.stat().st_mode | stat.S_IXUSR)
    return {"PATH": f"{program.parent}:{os.environ['PATH']}"}


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGKILL, signal.SIGHUP, signal.SIGINT])
def test_workers_end_with_their_parent(how: int, tmp_path: Path) -> None:
    process, numbers = started(WORKERS, tmp_path, 2, {})
    end(process, how)
    assert wait_for(lambda: not any(map(alive, numbers)), 10)


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGKILL, signal.SIGINT])
def test_dot_ends_with_its_parent(how: int, tmp_path: Path, slow_dot: dict[str, str]) -> None:
    (tmp_path / "numbers").mkdir()
    process, numbers = started(DOT, tmp_path / "numbers", 1, slow_dot)
    end(process, how)
    assert wait_for(lambda: not any(map(alive, numbers)), 10)


def test_a_worker_holds_no_pipe_of_its_parent(tmp_path: Path) -> None:
    process, numbers = started(WORKERS, tmp_path, 2, {})
    opened = {str(Path(f"/proc/{number}/fd/{place}").readlink()) for number in numbers for place in (0, 1, 2)}
    end(process, signal.SIGKILL)
    assert opened == {os.devnull}


def test_whose_parent_is_gone_already_ends_itself() -> None:
    child = os.fork()
    if child == 0:
        children.end_with(parent=1)  # which it never had
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 1


def test_what_a_program_says_is_there() -> None:
    done = children.run(["sh", "-c", "cat; echo oops >&2; exit 3"], b"in")
    assert (done.returncode, done.stdout, done.stderr) == (3, b"in", b"oops\n")
    with pytest.raises(OSError, match="no-such-program"):
        children.run(["no-such-program"])


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGKILL, signal.SIGINT])
def test_ranks_end_with_who_began_it_all(how: int, tmp_path: Path) -> None:
    """Two of them, one of which may have been started by the other."""
    (tmp_path / "numbers").mkdir()
    script = tmp_path / "rank.py"
    script.write_text(f"import os, time\nopen(f'{tmp_path}/numbers/{{os.getpid()}}', 'w').close()\ntime.sleep(600)\n")
    program = f"""
        from memgraph.study.ranks import Script, run_ranks
        run_ranks(Script({str(script)!r}, (), False, "t4", None, None, None, 1.0, world=2), [0, 1])
    """
    process, numbers = started(program, tmp_path / "numbers", 2, {})
    end(process, how)
    assert wait_for(lambda: not any(map(alive, numbers)), 10)
