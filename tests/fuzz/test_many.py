"""What tries properties for hours ends when it is told to, with all that it started."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.fuzz.test_signals import processes_of
from tests.test_children import wait_for

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="processes end with their parent on Linux alone")
ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGKILL])
def test_workers_end_with_it(how: signal.Signals, tmp_path: Path) -> None:
    """Also one that is busy: it starts commands, and waits for them."""
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.fuzz.many", "signals=1000", "--processes", "2"], cwd=ROOT,
        start_new_session=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        env=os.environ | {"TMPDIR": str(tmp_path)},
    )  # fmt: skip
    assert wait_for(lambda: len(list(tmp_path.glob("memgraph-fuzz-*/*/script.py"))) == 2)
    process.send_signal(how)
    assert process.wait(10) == -how
    assert wait_for(lambda: processes_of(process.pid) == [], 10)
