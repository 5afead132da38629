"""One run of an `Options` or of a script: on a virtual GPU, or recorded on a real one."""

from __future__ import annotations

import contextlib
import dataclasses
import traceback
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from memgraph.capture.ended import Ended
from memgraph.errors import DoesNotFit, MemgraphError, UsageError
from memgraph.options import Options
from memgraph.study.ranks import Script, mail_of
from memgraph.trace import Trace
from memgraph.trace.garbage import grown_old, no_garbage_collection
from memgraph.world.place import Place

if TYPE_CHECKING:
    from memgraph.capture.session import VirtualGpu
    from memgraph.gpu.allocator.out_of_memory import OutOfMemory
    from memgraph.models.job import Job
    from memgraph.plan.plan_file import Plan
    from memgraph.plan.times import MeasuredTimes
    from memgraph.world.calls import Called
    from memgraph.world.mail import Mail

Progress = Callable[[str, int, int | None], None]
"""Told of progress: a label, how much is done, of how much if that is known."""


def run(
    options: Options, progress: Progress | None = None, *, until_refused: bool = False
) -> tuple[Trace, VirtualGpu]:  # fmt: skip
    """The training steps that the options describe, on a virtual GPU.

    Args:
        until_refused: end at the first allocation that does not fit, with DoesNotFit, as on the card; default is to go
            on and say how much is missing.

    Returns:
        The trace, and the virtual GPU, which knows more than its trace: the graph, and each op's arguments.

    Raises:
        UsageError: something in the options is wrong.
        MemgraphError: the step fails.
    """
    with no_garbage_collection():
        if not until_refused:
            return _run(options, progress or _silent)
        ending = _Ending()
        try:
            return _run(options, progress or _silent, ending)
        except MemgraphError:
            if ending.told:  # whoever called may have made another error of it, as a pipeline's stage does
                raise DoesNotFit(ending.told) from None
            raise


class _Ending:
    """Ends a run where it is refused something."""

    gpu: VirtualGpu
    told = ""

    def __call__(self, _refused: OutOfMemory) -> None:
        stage = self.gpu.recorder.stage
        where = "while it is loaded" if stage.name == "load" else f"in the {stage.name} of step {stage.step}"
        self.told = f"out of memory {where}"
        raise DoesNotFit(self.told)


def _run(options: Options, progress: Progress, ending: _Ending | None = None) -> tuple[Trace, VirtualGpu]:
    from memgraph.capture.session import VirtualGpu
    from memgraph.capture.step import run_steps
    from memgraph.models.job import OwnStep
    from memgraph.models.registry import resolve

    entry = resolve(options.model, options.task)
    plan = _plan(options)
    gpu = VirtualGpu(
        options.gpu or default_gpu(),
        memory=options.memory,
        alloc_conf=options.alloc_conf,
        refuse=ending,
        fake_everywhere=True,
        torch=options.torch,
        **_on_its_rank(options),
    )
    if ending is not None:
        ending.gpu = gpu
    with gpu, _failures_named(options.model):
        job = entry.build(options.set, options.batch, options.seq)
        gpu.settings.update({**options.settings(), **job.settings})
        if isinstance(job, OwnStep):
            if options.mesh is not None:
                raise UsageError(f"{options.model} is a step of its own: use memgraph run --world")
            if plan is not None:
                raise UsageError(f"{options.model} is a step of its own: call memgraph.apply_checkpoints in it")
            for _ in range(options.steps):
                job.step()
        elif options.mesh is not None:
            from memgraph.capture.meshed import run_on_mesh

            run_on_mesh(job, options, options.mesh, gpu.mark, progress)
        else:
            run_steps(_planned(job, plan), options, gpu.mark, progress)
        return gpu.trace, gpu


def _on_its_rank(options: Options) -> dict[str, Any]:
    """What a virtual GPU of a rank is told besides."""
    if options.mesh is None:
        return {}
    from memgraph.world.alike import Alike
    from memgraph.world.place import place

    return {"place": place(options.mesh.world, options.mesh.rank), "mail": Alike()}


def run_script(
    script: str, arguments: Sequence[str] = (), *, module: bool = False, gpu: str | None = None,
    memory: int | None = None, alloc_conf: str | None = None, steps: int | None = None, fraction: float = 1.0,
    torch: str | None = None, place: Place | None = None, changes: Sequence[str] = (), plan: Plan | None = None,
    go_on: bool = False,
) -> tuple[Trace, Ended]:  # fmt: skip
    """A training script, unmodified, on a virtual GPU. As `memgraph.api.run_script`."""
    what = Script(
        script, tuple(arguments), module, gpu or default_gpu(), memory, alloc_conf, steps, fraction, torch,
        tuple(changes), *((1, 1) if place is None else (place.world, place.per_node)),
        None if plan is None else plan.text, go_on,
    )  # fmt: skip
    if place is None:
        return run_script_on(what)[:2]
    with mail_of(what, place.rank) as mail:
        return run_script_on(what, place, mail)[:2]


def run_script_on(
    what: Script, place: Place | None = None, mail: Mail | None = None
) -> tuple[Trace, Ended, Sequence[Called]]:
    """A script in this process, by itself or as a rank of a world; and the collectives that it called."""
    from memgraph.capture.script import run_script as run_on
    from memgraph.capture.session import VirtualGpu

    settings = {"script": " ".join([what.script, *what.arguments])}
    with (
        VirtualGpu(
            what.gpu, memory=what.memory, alloc_conf=what.alloc_conf, settings=settings, fraction=what.fraction,
            torch=what.torch, place=place, mail=mail,
        ) as card,
        _changed(card, what),
    ):  # fmt: skip
        ended = run_on(
            card, what.script, what.arguments, module=what.module, steps=what.steps, goes_on=what.goes_on
        )  # fmt: skip
        trace = card.trace
        grown_old()
        return trace, ended, () if card.calls is None else card.calls.made_so_far


@contextlib.contextmanager
def _changed(card: VirtualGpu, what: Script) -> Iterator[None]:
    """The script's changes and its plan, in force."""
    from memgraph.capture.script_changes import SCRIPT_CHANGES
    from memgraph.plan.plan_file import parse_plan
    from memgraph.study.planned import planned

    with contextlib.ExitStack() as stack:
        for name in what.changes:
            stack.enter_context(SCRIPT_CHANGES[name](card))
        if what.plan is not None:
            stack.enter_context(planned(card, parse_plan(what.plan)))
        yield


def in_one_thread() -> None:
    """For a process that was forked: OpenMP's threads do not survive that, and an op that wants them would wait for
    ever."""
    import torch

    torch.set_num_threads(1)


def describe_gpu() -> str:
    """The card of this machine. As `memgraph.api.describe_gpu`."""
    from memgraph.capture.real.card import described

    return described()


def record_steps(
    options: Options, via: str = "history", *, cap: int | None = None, ops: bool = False, log: Path | None = None
) -> tuple[Trace, Ended]:
    """The steps on the real GPU. As `memgraph.api.record_steps`."""
    from memgraph.capture.real.recording import record_steps as record

    plan = _plan(options)
    with no_garbage_collection():
        return record(options, via, cap=cap, ops=ops, log=log, prepare=lambda job: _planned(job, plan))


def record_times(options: Options) -> MeasuredTimes:
    """What ops take on the real GPU. As `memgraph.api.record_times`."""
    from memgraph.capture.real.recording import time_steps
    from memgraph.plan.times import MeasuredTimes, Row

    if options.compile != "none":
        raise UsageError(
            "times are those of ATen's ops, and a compiled step has kernels of its own: leave --compile out"
        )
    plan = _plan(options)
    with no_garbage_collection(), _failures_named(options.model):
        gpu, torch_version, rows = time_steps(options, lambda job: _planned(job, plan))
    return MeasuredTimes(gpu, torch_version, options.amp, options.dtype, tuple(Row(*row) for row in rows))


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
    from memgraph.plan.apply import apply_plan

    if plan is None:
        return job

    def build() -> Any:
        model = job.model()
        apply_plan(model, plan)
        return model

    return dataclasses.replace(job, model=build)


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


def _silent(_label: str, _done: int, _total: int | None) -> None:
    pass
