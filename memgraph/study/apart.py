"""Runs in a process each: torch.distributed's caches keep the meshes of a world that is gone, so no process has two."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool

from memgraph.errors import MemgraphError, ShimError
from memgraph.options import Options
from memgraph.study.run import Progress
from memgraph.study.workers import belong_to, cores
from memgraph.trace import Trace

_PAUSE = 0.02
Outcome = Trace | MemgraphError
"""What came of a run: an error is one that it refuses in a line."""


def traced_apart(wanted: Sequence[Options], progress: Progress | None = None) -> list[Trace]:
    """Each of them traced, as many at once as there are cores.

    Raises:
        MemgraphError: the first of them that fails.
    """
    outcomes = dict(outcomes_apart(wanted, progress))
    found: list[Trace] = []
    for number in range(len(wanted)):
        outcome = outcomes[number]
        if isinstance(outcome, MemgraphError):
            raise outcome
        found.append(outcome)
    return found


def outcomes_apart(
    wanted: Sequence[Options], progress: Progress | None = None, *, until_refused: bool = False
) -> Iterator[tuple[int, Outcome]]:
    """What comes of each, by its number, in the order in which they end. As `memgraph.study.run.run`."""
    waiting, running = list(enumerate(wanted)), dict[int, tuple[ProcessPoolExecutor, Future[Trace]]]()
    done = 0
    try:
        while waiting or running:
            while waiting and len(running) < cores():
                number, options = waiting.pop(0)
                running[number] = _begun(options, until_refused)
            for number in [number for number, (_, future) in running.items() if future.done()]:
                pool, future = running.pop(number)
                pool.shutdown()
                done += 1
                if progress is not None:
                    progress(f"{done} of {len(wanted)} traced", done, len(wanted))
                yield number, _outcome(future, wanted[number], until_refused)
            time.sleep(_PAUSE)
    finally:
        for pool, _ in running.values():
            for process in list((pool._processes or {}).values()):
                process.terminate()
            pool.shutdown(wait=True, cancel_futures=True)


def _begun(options: Options, until_refused: bool) -> tuple[ProcessPoolExecutor, Future[Trace]]:
    import memgraph.capture.step  # noqa: F401  # torch: loaded once, shared by all that are forked

    kind = "fork" if "fork" in multiprocessing.get_all_start_methods() else None
    pool = ProcessPoolExecutor(1, multiprocessing.get_context(kind), initializer=belong_to, initargs=(os.getpid(),))
    return pool, pool.submit(_alone, options, until_refused)


def _alone(options: Options, until_refused: bool) -> Trace:
    from memgraph.study.run import run

    return run(options, until_refused=until_refused)[0]


def _outcome(future: Future[Trace], options: Options, until_refused: bool) -> Outcome:
    """Where a process came to nothing, or autograd does not run in a fork for it has run here, the options run here."""
    try:
        with contextlib.suppress(BrokenProcessPool, ShimError):
            return future.result()
        return _alone(options, until_refused)
    except MemgraphError as error:
        return error
