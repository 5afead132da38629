"""^C where Python runs inside of a callback from C."""

from __future__ import annotations

import os
import signal
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
