"""Runs traced in processes of their own, beside this one: tracing is Python, which uses one core."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import sys
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from typing import Any

from memgraph.children import end_with, let_go_of_terminal
from memgraph.errors import ShimError
from memgraph.options import Options
from memgraph.trace import Trace

Traced = tuple[Trace, dict[int, Any]]
"""A trace, and what the workspace rules were asked, by the op's number."""


def traced(options: Options) -> Traced:
    """Run the options here."""
    from memgraph.study.run import run

    trace, gpu = run(options)
    return trace, dict(gpu.recorder.allocating.ruled)


def cores() -> int:
    """To run on, at most 8: each process takes some 400 MiB."""
    return min(8, len(os.sched_getaffinity(0)) if sys.platform == "linux" else 1)


class Workers:
    """A pool of forked processes that have torch loaded already. Where processes do not fork there are none.

    They have to be asked before this process runs its first backward: autograd's threads do not survive a fork, and
    what was asked after it is run here instead.

    Args:
        count: how many; by default as many as there are cores to run on, at most 8: each takes some 400 MiB.
    """

    def __init__(self, count: int | None = None) -> None:
        self.count = cores() if count is None else count
        self._pool: ProcessPoolExecutor | None = None
        self._asked: dict[Any, Future[Traced]] = {}

    def ask(self, key: Any, options: Options) -> None:
        """Have the options run, the answer to be taken under this key."""
        if self.count > 1 and key not in self._asked:
            self._asked[key] = self._started().submit(traced, options)

    def take(self, key: Any, options: Options) -> Traced:
        """The answer, or what running the options here gives if nobody was asked or the process came to nothing.

        Raises:
            MemgraphError: the run fails.
        """
        future = self._asked.pop(key, None)
        if future is not None:
            with contextlib.suppress(BrokenProcessPool, ShimError):  # the latter: autograd does not run after a fork
                return future.result()
        return traced(options)

    def close(self) -> None:
        """End the processes, whatever they are at."""
        if self._pool is not None:
            for process in list((self._pool._processes or {}).values()):
                process.terminate()
            self._pool.shutdown(wait=True, cancel_futures=True)
            self._pool = None
        self._asked.clear()

    def _started(self) -> ProcessPoolExecutor:
        if self._pool is None:
            import memgraph.capture.step  # noqa: F401  # torch: loaded once, shared by all that are forked

            context = multiprocessing.get_context("fork")
            self._pool = ProcessPoolExecutor(self.count, context, initializer=belong_to, initargs=(os.getpid(),))
        return self._pool


def belong_to(parent: int) -> None:
    """Nothing of a worker outlives its parent; interrupts are the parent's, and what goes wrong is told to it."""
    from memgraph.study.run import in_one_thread

    signal.signal(signal.SIGINT, signal.SIG_IGN)
    end_with(parent)
    let_go_of_terminal()
    in_one_thread()
