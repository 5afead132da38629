"""The facade that users and the command line share."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import traceback
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from memgraph.any_file import load
from memgraph.ended import Ended
from memgraph.errors import MemgraphError, UsageError
from memgraph.garbage import no_garbage_collection
from memgraph.options import Options
from memgraph.trace import Trace

if TYPE_CHECKING:
    import torch

    from memgraph.capture.real import Recording
    from memgraph.capture.session import VirtualGpu
    from memgraph.models.job import Job
    from memgraph.plan.answer import Answer
    from memgraph.plan.apply import Applied
    from memgraph.plan.plan_file import Plan
    from memgraph.plan.times import MeasuredTimes

Progress = Callable[[str, int, int | None], None]
"""Told of progress: a label, how much is done, of how much if that is known."""


def virtual_gpu(
    gpu: str = "rtx3090",
    *,
    memory: int | None = None,
    alloc_conf: str | None = None,
    select: float = 1.0,
    **settings: Any,
) -> VirtualGpu:
    """A CUDA device that is not there: ordinary training code inside the `with` block runs on it without computing.

    Args:
        gpu: a name from `memgraph gpus`.
        memory: bytes that PyTorch's allocator may take; default the card's memory less its CUDA context.
        alloc_conf: as the environment variable PYTORCH_CUDA_ALLOC_CONF, which is the default.
        select: the share of their bound that sizes which depend on data are taken to be, 0 to 1.
        settings: anything worth keeping in the trace: `batch=8`, `note="before the change"`.

    Returns:
        A context manager with `.trace` and `.graph`.

    Raises:
        UsageError: no such GPU, or no such share; or a virtual GPU is open already.
        ShimError: the small library behind it cannot be built.
    """
    from memgraph.capture.session import VirtualGpu

    return VirtualGpu(gpu, memory=memory, alloc_conf=alloc_conf, settings=settings, fraction=select)


def predict(options: Options, progress: Progress | None = None) -> Trace:
    """Run the training steps that the options describe on a virtual GPU.

    Args:
        options: model, sizes, card, precision, optimizer.
        progress: told of each step.

    Raises:
        UsageError: something in the options is wrong.
        ShimError: the small library behind the virtual GPU cannot be built.
    """
    return run(options, progress)[0]


def run(options: Options, progress: Progress | None = None) -> tuple[Trace, VirtualGpu]:
    """As `predict`, with the virtual GPU, which knows more than its trace: the graph, and each op's arguments."""
    with no_garbage_collection():
        return _run(options, progress or _silent)


def _run(options: Options, progress: Progress) -> tuple[Trace, VirtualGpu]:
    from memgraph.capture.session import VirtualGpu
    from memgraph.capture.step import run_steps
    from memgraph.models.job import OwnStep
    from memgraph.models.registry import resolve

    entry = resolve(options.model, options.task)
    plan = _plan(options)
    gpu = VirtualGpu(
        options.gpu or default_gpu(), memory=options.memory, alloc_conf=options.alloc_conf, fake_everywhere=True
    )
    with gpu, _failures_named(options.model):
        job = entry.build(options.set, options.batch, options.seq)
        gpu.settings.update({**options.settings(), **job.settings})
        if isinstance(job, OwnStep):
            if plan is not None:
                raise UsageError(f"{options.model} is a step of its own: call memgraph.apply_checkpoints in it")
            for _ in range(options.steps):
                job.step()
        else:
            run_steps(_planned(job, plan), options, gpu.mark, progress)
        return gpu.trace, gpu


def _plan(options: Options) -> Plan | None:
    from memgraph.plan.plan_file import parse_plan

    plan = None if options.plan is None else parse_plan(options.plan)
    if plan is not None and options.compile != "none" and any(len(region.modules) > 1 for region in plan.regions):
        raise UsageError(
            "the plan has regions of several modules, and torch.compile does not follow a checkpoint that one module "
            "opens and another closes: leave --compile out, or plan for single modules"
        )
    return plan


def _planned(job: Job, plan: Plan | None) -> Job:
    """A job whose model has the plan applied as soon as it is built."""
    if plan is None:
        return job

    def build() -> Any:
        model = job.model()
        apply_checkpoints(model, plan)
        return model

    return dataclasses.replace(job, model=build)


def plan_checkpoints(
    options: Options, budget: int | None = None, *, minimize: str = "time", progress: Progress | None = None,
    times: MeasuredTimes | str | os.PathLike[str] | None = None,
) -> Answer:  # fmt: skip
    """The cheapest set of layers to recompute so that a step fits, traced again with the plan applied.

    Args:
        options: the step, with nothing checkpointed.
        budget: bytes that PyTorch's allocator may take; None for what the card has for it.
        minimize: `time`, or `memory` for the lowest peak.
        times: what ops take on the card, from `memgraph record --times`; default a roofline.

    Returns:
        The answer: `.best.plan` for `apply_checkpoints`, or `.best` None where no plan fits.

    Raises:
        UsageError: the options are wrong, or the times are of another card.
    """
    from memgraph.plan.times import MeasuredTimes, load_times
    from memgraph.planner import Planner
    from memgraph.workers import Workers

    if minimize not in ("time", "memory"):
        raise UsageError(f"minimize {minimize!r}: it is time or memory")
    measured = times if times is None or isinstance(times, MeasuredTimes) else load_times(times)
    with contextlib.closing(Workers()) as workers:
        planner = Planner(options, budget, progress, workers, times=measured)
        return planner.cheapest() if minimize == "time" else planner.least_memory()


def apply_checkpoints(model: torch.nn.Module, plan: Plan | str | os.PathLike[str]) -> Applied:
    """Checkpoint the modules of a model as a plan says. Gradients, random numbers and autocast stay as they were.

    Args:
        model: it is changed in place: the `forward` of the plan's modules is wrapped.
        plan: from `memgraph.plan_checkpoints`, or the file that `memgraph checkpoint -o` wrote.

    Returns:
        What undoes it: `.undo()`, or as a context manager.

    Raises:
        UsageError: there is no such file, or the model has no such module; the model is then as it was.
    """
    from memgraph.plan.apply import apply_plan
    from memgraph.plan.plan_file import Plan, load_plan

    return apply_plan(model, plan if isinstance(plan, Plan) else load_plan(plan))


def run_script(
    script: str,
    arguments: Sequence[str] = (),
    *,
    module: bool = False,
    gpu: str | None = None,
    memory: int | None = None,
    alloc_conf: str | None = None,
    steps: int | None = None,
    fraction: float = 1.0,
) -> tuple[Trace, Ended]:
    """Run a training script, unmodified, on a virtual GPU, as `python script.py arguments` would.

    Args:
        script: a file, or with `module` a module's name.
        steps: end it after so many optimizer steps.
        fraction: of their bound that sizes which depend on data are taken to be.

    Returns:
        The trace, and how the script ended.

    Raises:
        UsageError: there is no such script or GPU.
    """
    from memgraph.capture.script import run_script as run
    from memgraph.capture.session import VirtualGpu

    settings = {"script": " ".join([script, *arguments])}
    with VirtualGpu(
        gpu or default_gpu(), memory=memory, alloc_conf=alloc_conf, settings=settings, fraction=fraction
    ) as card:
        ended = run(card, script, arguments, module=module, steps=steps)
        return card.trace, ended


def record(
    via: str = "history", *, cap: int | None = None, ops: bool = False, **settings: Any
) -> contextlib.AbstractContextManager[Recording]:
    """On a machine with a GPU: ordinary training code inside the `with` block is recorded as it runs.

    Args:
        via: `history`, torch's own memory history; or `hook`, an allocator that logs what is asked of it, which has to
            be opened before the process uses GPU memory.
        cap: bytes that may be used, to make a large card behave as a small one.
        ops: with the hook, note which op of which module ran.
        settings: anything worth keeping in the trace.

    Returns:
        A context manager whose value has `.trace` after the block, and `.mark("forward")` for phases.

    Raises:
        MemgraphError: there is no GPU, or its memory was used before the hook.
    """
    from memgraph.capture.real import recording

    return recording(via, settings, cap=cap, ops=ops)


def record_steps(
    options: Options, via: str = "history", *, cap: int | None = None, ops: bool = False, log: Path | None = None
) -> tuple[Trace, Ended]:
    """The training steps that the options describe, on the real GPU, as `predict` without one; and how they ended.

    Args:
        log: where the hook writes while it runs; default a temporary file.

    Raises:
        MemgraphError: there is no GPU.
    """
    from memgraph.capture.real import record_steps as run

    plan = _plan(options)
    with no_garbage_collection():
        return run(options, via, cap=cap, ops=ops, log=log, prepare=lambda job: _planned(job, plan))


def record_times(options: Options) -> MeasuredTimes:
    """What the ops of the step that the options describe take on the real GPU, for `plan_checkpoints`.

    The steps run anew, and one more under PyTorch's profiler. That slows what comes after it: do it last.

    Raises:
        UsageError: the options are for a compiled step, which has kernels of its own.
        MemgraphError: there is no GPU, or the step fails.
    """
    from memgraph.capture.real import time_steps
    from memgraph.plan.times import MeasuredTimes, Row

    if options.compile != "none":
        raise UsageError(
            "times are those of ATen's ops, and a compiled step has kernels of its own: leave --compile out"
        )
    plan = _plan(options)
    with no_garbage_collection(), _failures_named(options.model):
        gpu, torch_version, rows = time_steps(options, lambda job: _planned(job, plan))
    return MeasuredTimes(gpu, torch_version, options.amp, options.dtype, tuple(Row(*row) for row in rows))


def record_script(
    script: str, arguments: Sequence[str] = (), via: str = "history", *, module: bool = False,
    steps: int | None = None, cap: int | None = None, ops: bool = False, log: Path | None = None,
) -> tuple[Trace, Ended]:  # fmt: skip
    """A training script, unmodified, on the real GPU; as `run_script` without one.

    Raises:
        UsageError: there is no such script.
        MemgraphError: there is no GPU.
    """
    from memgraph.capture.real import record_script as run

    return run(script, arguments, via, module=module, steps=steps, cap=cap, ops=ops, log=log)


@contextlib.contextmanager
def _failures_named(model: str) -> Iterator[None]:
    """What torch or the model itself raises is an answer too: the step fails, here or on the card."""
    try:
        yield
    except MemgraphError:
        raise
    except Exception as error:
        frame = traceback.extract_tb(error.__traceback__)[-1]
        reason = " ".join(str(error).split()) or "no reason given"
        place = f"{'/'.join(frame.filename.rsplit('/', 2)[-2:])}:{frame.lineno}"
        raise MemgraphError(f"the step of {model} fails: {type(error).__name__}: {reason} (at {place})") from error


def default_gpu() -> str:
    """The visible card if the catalogue has it, else the RTX 3090."""
    import torch

    from memgraph.gpu.specs import find

    if torch.cuda.is_available():
        try:
            return find(torch.cuda.get_device_name()).name
        except UsageError:
            pass
    return "rtx3090"


def _silent(_label: str, _done: int, _total: int | None) -> None:
    pass


__all__ = ["Options", "Progress", "Trace", "apply_checkpoints", "default_gpu", "load", "plan_checkpoints", "predict",
           "record", "record_script", "record_steps", "record_times", "run_script", "virtual_gpu"]  # fmt: skip
