"""Training steps or somebody's script on a real GPU, recorded."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import torch
from torch.optim.optimizer import register_optimizer_step_post_hook, register_optimizer_step_pre_hook

from memgraph.capture.history import record_history
from memgraph.capture.hook import Hook, record_hook
from memgraph.capture.marks import OpsMarked
from memgraph.capture.script import StepsDone, as_main, ended
from memgraph.capture.step import run_steps
from memgraph.ended import Ended
from memgraph.errors import UsageError
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
    via: str, settings: Mapping[str, Any], *, cap: int | None = None, ops: bool = False
) -> Iterator[Recording]:
    """Record what happens on the GPU while open.

    Args:
        via: one of `VIA`.
        cap: bytes that may be used: reserved by torch's allocator, requested of the hook.
        ops: with the hook, note which op of which module ran.

    Raises:
        UsageError: there is no such way, or ops are wanted of torch's history.
        MemgraphError: there is no GPU.
    """
    if via not in VIA:
        raise UsageError(f"via {via!r}: it is one of {', '.join(VIA)}")
    if ops and via != "hook":
        raise UsageError("torch's history knows no ops: record them via the hook")
    if via == "hook":
        with record_hook(settings, cap) as hook, _marked(hook, ops):
            yield hook
    else:
        with record_history(settings, cap) as history:
            yield history


@contextlib.contextmanager
def _marked(hook: Hook, ops: bool) -> Iterator[None]:
    with OpsMarked(hook.marks) if ops else contextlib.nullcontext():
        yield


def record_steps(
    options: Options, via: str, *, cap: int | None = None, ops: bool = False,
    prepare: Callable[[Job], Job] = lambda job: job,
) -> Trace:  # fmt: skip
    """The steps that the options describe. A run that is out of memory ends there, and its trace says so.

    Args:
        prepare: what is to be done to the job before it runs.
    """
    torch.manual_seed(0)
    job = resolve(options.model, options.task).build(options.set, options.batch, options.seq)
    settings = {**options.settings(), **job.settings}
    with recording(via, settings, cap=cap, ops=ops) as record, contextlib.suppress(torch.cuda.OutOfMemoryError):
        if isinstance(job, OwnStep):
            for _ in range(options.steps):
                record.mark("input")
                job.step()
        else:
            run_steps(prepare(job), options, record.mark, lambda *_: None)
    return record.trace


def record_script(
    script: str,
    arguments: Sequence[str],
    via: str,
    *,
    module: bool = False,
    steps: int | None = None,
    cap: int | None = None,
    ops: bool = False,
) -> tuple[Trace, Ended]:
    """A training script as it is. Its optimizers' steps divide the recording into steps.

    Raises:
        UsageError: there is no such script.
    """
    if not module and not Path(script).is_file():
        raise UsageError(f"there is no script {script}")
    settings = {"script": " ".join([script, *arguments])}
    with (
        recording(via, settings, cap=cap, ops=ops) as record,
        _steps_followed(record.mark, steps),
        as_main(script, arguments, module),
    ):
        how = ended(script, module)
    return record.trace, how


@contextlib.contextmanager
def _steps_followed(mark: Callable[[str], None], steps: int | None) -> Iterator[None]:
    """Mark each optimizer step, and end the script after as many as were asked for."""
    done = 0

    def before(*_: Any) -> None:
        mark("optimizer")

    def after(*_: Any) -> None:
        nonlocal done
        done += 1
        if done == steps:
            raise StepsDone
        mark("input")

    handles = [register_optimizer_step_pre_hook(before), register_optimizer_step_post_hook(after)]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
