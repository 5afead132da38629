"""^C where Python runs inside of a callback from C."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading

import pytest
import torch

import memgraph


def interrupt() -> None:
    os.kill(os.getpid(), signal.SIGINT)


def test_one_that_falls_into_a_storages_death_is_raised_at_the_next_op(monkeypatch: pytest.MonkeyPatch) -> None:
    """Raised there, Python would print and forget it, and the run would go on."""
    with pytest.raises(KeyboardInterrupt), memgraph.virtual_gpu("t4") as gpu:  # noqa: PT012
        free = gpu.ledger.free

        def freed(buffer: int) -> None:
            monkeypatch.undo()
            interrupt()
            free(buffer)

        x = torch.ones(1000, device="cuda")
        monkeypatch.setattr(gpu.ledger, "free", freed)
        del x
        assert gpu.recorder.interrupted
        assert gpu.ledger.allocator.allocated == 0
        torch.ones(1, device="cuda")
        pytest.fail("the run went on")


def test_anywhere_else_it_is_raised_at_once() -> None:
    with pytest.raises(KeyboardInterrupt), memgraph.virtual_gpu("t4"):  # noqa: PT012
        interrupt()
        pytest.fail("the run went on")


def test_the_handler_is_as_it_was_and_one_of_the_users_own_stays() -> None:
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    seen: list[int] = []
    with memgraph.virtual_gpu("t4"):
        assert signal.getsignal(signal.SIGINT) is not signal.default_int_handler
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    signal.signal(signal.SIGINT, lambda number, _: seen.append(number))
    try:
        with memgraph.virtual_gpu("t4"):
            interrupt()
        assert seen == [signal.SIGINT]
    finally:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def test_other_threads_get_no_handler() -> None:
    failed: list[BaseException] = []

    def run() -> None:
        try:
            with memgraph.virtual_gpu("t4"):
                torch.ones(1, device="cuda")
        except BaseException as error:
            failed.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    assert failed == []


ASKED = """
import signal, sys, torch, memgraph
from torch._library.simple_registry import find_torch_dispatch_rule

asked = []
def interrupt(frame, event, _):
    if event == "return" and frame.f_code is find_torch_dispatch_rule.__code__:
        if frame.f_locals["op"] is torch.ops.prim.device.default:
            asked.append(frame.f_locals["torch_dispatch_class"])
            sys.setprofile(None)
            signal.raise_signal(signal.SIGINT)

try:
    with memgraph.virtual_gpu("t4"):
        model = torch.nn.Linear(8, 8).cuda()
        sys.setprofile(interrupt)
        model(torch.rand(8, 8, device="cuda")).sum().backward()
        sys.setprofile(None)
        torch.ones(1, device="cuda")
        print("the run went on")
except KeyboardInterrupt:
    print("interrupted", len(asked))
"""


def test_one_that_falls_where_c_asks_for_a_rule_does_not_abort() -> None:
    """As `terminate called after throwing an instance of 'pybind11::error_already_set'`."""
    done = subprocess.run([sys.executable, "-c", ASKED], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "interrupted 1\n"), done.stderr[-2000:]
