"""Training steps or somebody's script on a real GPU, recorded."""

from __future__ import annotations

import contextlib
import dataclasses
import signal
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from types import FrameType
from typing import Any, Protocol

import torch

from memgraph.capture.ended import Ended, OwnEnd
from memgraph.capture.real.history import record_history
from memgraph.capture.real.hook import Hook, record_hook, require_gpu
from memgraph.capture.real.marks import OpsMarked, StepsMarked
from memgraph.capture.real.timing import Row, time_last_step
from memgraph.capture.script import as_main, ended
from memgraph.capture.step import run_steps
from memgraph.errors import MemgraphError, UsageError
from memgraph.models.job import Job, OwnStep
from memgraph.models.registry import resolve
from memgraph.options import Options
from memgraph.trace import Trace

VIA = ("history", "hook")
"""torch's own memory history, or the allocator hook."""


class Recording(Protocol):
    """What both ways of recording offer."""

    def mark(self, phase: str) -> None:
        """A phase begins."""
        ...

    @property
    def trace(self) -> Trace:
        """The recording, once it is over."""
        ...


@contextlib.contextmanager
def recording(
    via: str, settings: Mapping[str, Any], *, cap: int | None = None, ops: bool = False, log: Path | None = None
) -> Iterator[Recording]:
    """Record what happens on the GPU while open.

    Args:
        via: one of `VIA`.
        cap: bytes that may be used: reserved by torch's allocator, requested of the hook.
        ops: with the hook, note which op of which module ran.
        log: where the hook writes while it runs; default a temporary file.

    Raises:
        UsageError: there is no such way, or ops are wanted of torch's history.
        MemgraphError: there is no GPU.
    """
    if via not in VIA:
        raise UsageError(f"via {via!r}: it is one of {', '.join(VIA)}")
    if ops and via != "hook":
        raise UsageError("torch's history knows no ops: record them via the hook")
    if via == "hook":
        with record_hook(settings, cap, log, ops=ops) as hook, _marked(hook, ops):
            yield hook
    else:
        with record_history(settings, cap) as history:
            yield history


@contextlib.contextmanager
def _marked(hook: Hook, ops: bool) -> Iterator[None]:
    with OpsMarked(hook.marks) if ops else contextlib.nullcontext():
        yield


def record_steps(
    options: Options, via: str, *, cap: int | None = None, ops: bool = False, log: Path | None = None,
    prepare: Callable[[Job], Job] = lambda job: job,
) -> tuple[Trace, Ended]:  # fmt: skip
    """The steps that the options describe, and how they ended: what was recorded until then is kept.

    Args:
        prepare: what is to be done to the job before it runs.

    Raises:
        MemgraphError: there is no GPU, or something in the options is wrong.
    """
    require_gpu()
    torch.manual_seed(0)
    job = _job(options, prepare)
    settings = {**options.settings(), **job.settings}
    with recording(via, settings, cap=cap, ops=ops, log=log) as record:
        how = _to_the_end(lambda: _steps(job, options, record.mark))
    return record.trace, how


def time_steps(options: Options, prepare: Callable[[Job], Job]) -> tuple[str, str, list[Row]]:
    """The steps that the options describe and one more, of which each op's time is taken.

    Returns:
        The card as its driver says it, torch's version, and the times.

    Raises:
        MemgraphError: there is no GPU, or something in the options is wrong. What the step itself raises is passed on.
    """
    require_gpu()
    torch.manual_seed(0)
    job, longer = _job(options, prepare), dataclasses.replace(options, steps=options.steps + 1)

    def run(mark: Callable[[str], None]) -> None:
        if (error := _steps(job, longer, mark).error) is not None:
            raise error

    rows = time_last_step(run, longer.steps)
    return torch.cuda.get_device_properties(torch.cuda.current_device()).name, torch.__version__, rows


def _job(options: Options, prepare: Callable[[Job], Job]) -> Job | OwnStep:
    job = resolve(options.model, options.task).build(options.set, options.batch, options.seq)
    return job if isinstance(job, OwnStep) else prepare(job)


def _steps(job: Job | OwnStep, options: Options, mark: Callable[[str], None]) -> Ended:
    try:
        if isinstance(job, OwnStep):
            for _ in range(options.steps):
                mark("input")
                job.step()
        else:
            run_steps(job, options, mark, lambda *_: None)
    except MemgraphError:
        raise
    except Exception as error:
        return Ended(1, error=error)
    return Ended(0)


def record_script(
    script: str,
    arguments: Sequence[str],
    via: str,
    *,
    module: bool = False,
    steps: int | None = None,
    cap: int | None = None,
    ops: bool = False,
    log: Path | None = None,
) -> tuple[Trace, Ended]:
    """A training script as it is, and how it ended: what was recorded until then is kept.

    Raises:
        UsageError: there is no such script.
        MemgraphError: there is no GPU.
    """
    if not module and not Path(script).is_file():
        raise UsageError(f"there is no script {script}")
    settings = {"script": " ".join([script, *arguments])}
    with (
        recording(via, settings, cap=cap, ops=ops, log=log) as record,
        StepsMarked(record.mark, steps).following(),
        as_main(script, arguments, module),
    ):
        how = _to_the_end(lambda: ended(script, module))
    return record.trace, how


class Stopped(OwnEnd):
    """The process was told to end."""


def _to_the_end(run: Callable[[], Ended]) -> Ended:
    """Also if that is an interruption (Ctrl-C), or a job's time is over (SIGTERM, SIGHUP, SIGXCPU)."""
    try:
        with _signals_stop():
            return run()
    except KeyboardInterrupt:
        return Ended(128 + signal.SIGINT, "interrupted")
    except Stopped as stopped:
        return Ended(128 + stopped.args[0], f"stopped by {signal.Signals(stopped.args[0]).name}")


@contextlib.contextmanager
def _signals_stop() -> Iterator[None]:
    """A signal that would end the process at once raises, so that the recording is written first."""

    def stop(number: int, _frame: FrameType | None) -> None:
        raise Stopped(number)

    if threading.current_thread() is not threading.main_thread():  # only there may handlers be set
        yield
        return
    before = {number: signal.signal(number, stop) for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGXCPU)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
