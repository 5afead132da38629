"""The facade that users and the command line share."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from memgraph.capture.ended import Ended
from memgraph.files.any_file import load
from memgraph.options import Options
from memgraph.study.run import Progress
from memgraph.trace import Trace
from memgraph.world.place import Place
from memgraph.world.place import place as place_of

if TYPE_CHECKING:
    import torch

    from memgraph.capture.real.recording import Recording
    from memgraph.capture.session import VirtualGpu
    from memgraph.plan.answer import Answer
    from memgraph.plan.apply import Applied
    from memgraph.plan.plan_file import Plan
    from memgraph.plan.times import MeasuredTimes


def virtual_gpu(
    gpu: str = "rtx3090",
    *,
    memory: int | None = None,
    alloc_conf: str | None = None,
    select: float = 1.0,
    torch: str | None = None,
    world: int | None = None,
    rank: int = 0,
    **settings: Any,
) -> VirtualGpu:
    """A CUDA device that is not there: ordinary training code inside the `with` block runs on it without computing.

    Args:
        gpu: a name from `memgraph gpus`.
        memory: bytes that PyTorch's allocator may take; default the card's memory less its CUDA context.
        alloc_conf: as the environment variable PYTORCH_CUDA_ALLOC_CONF, which is the default.
        select: the share of their bound that sizes which depend on data are taken to be, 0 to 1.
        torch: the release of the machine that will run it, `2.11`; default the one that is installed.
        world: ranks in all, for code that uses `torch.distributed`: it is rank `rank` of them, on NCCL.
        rank: which of them this is, from 0.
        settings: anything worth keeping in the trace: `batch=8`, `note="before the change"`.

    Returns:
        A context manager with `.trace` and `.graph`.

    Raises:
        UsageError: no such GPU, or no such share; or a virtual GPU is open already.
        ShimError: the small library behind it cannot be built.
    """
    from memgraph.capture.session import VirtualGpu

    here = None if world is None else place_of(world, rank)
    return VirtualGpu(
        gpu, memory=memory, alloc_conf=alloc_conf, settings=settings, fraction=select, torch=torch, place=here
    )


def predict(options: Options, progress: Progress | None = None) -> Trace:
    """Run the training steps that the options describe on a virtual GPU.

    Args:
        options: model, sizes, card, precision, optimizer.
        progress: told of each step.

    Raises:
        UsageError: something in the options is wrong.
        ShimError: the small library behind the virtual GPU cannot be built.
    """
    from memgraph.study.run import run

    return run(options, progress)[0]


def default_gpu() -> str:
    """The visible card if the catalogue has it, else the RTX 3090."""
    from memgraph.study.run import default_gpu as default

    return default()


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
    from memgraph.study.planner import plan

    return plan(options, budget, minimize=minimize, progress=progress, times=times)


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


def describe_gpu() -> str:
    """The CUDA card of this machine, as the text of a file that `--gpu FILE.json` takes on another.

    Raises:
        UsageError: there is none.
    """
    from memgraph.study.run import describe_gpu as describe

    return describe()


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
    torch: str | None = None,
    place: Place | None = None,
    change: str | Sequence[str] | None = None,
    plan: Plan | None = None,
    go_on: bool = False,
) -> tuple[Trace, Ended]:
    """Run a training script, unmodified, on a virtual GPU, as `python script.py arguments` would.

    Args:
        script: a file, or with `module` a module's name.
        steps: end it after so many optimizer steps.
        fraction: of their bound that sizes which depend on data are taken to be.
        torch: the release of the machine that will run it, `2.11`.
        place: the rank of a world that the script is, from `memgraph.world.place.place`.
        change: what to change that the script does not know of, one or several: `fused`, `no-foreach`, `no-cache`,
            `chunked-loss`, `checkpoint`, `no-autocast`, `no-grad`.
        plan: what of the script's model to compute again.
        go_on: where the card is full, as if it were larger; default is that the script is told.

    Returns:
        The trace, and how the script ended.

    Raises:
        UsageError: there is no such script or GPU.
    """
    from memgraph.study.run import run_script as run

    return run(
        script, arguments, module=module, gpu=gpu, memory=memory, alloc_conf=alloc_conf, steps=steps, fraction=fraction,
        torch=torch, place=place, changes=(change,) if isinstance(change, str) else change or (), plan=plan,
        go_on=go_on,
    )  # fmt: skip


def run_ranks(
    script: str, arguments: Sequence[str], which: str, here: Place, *, module: bool = False, gpu: str | None = None,
    memory: int | None = None, alloc_conf: str | None = None, steps: int | None = None, fraction: float = 1.0,
    torch: str | None = None, change: Sequence[str] = (),
) -> tuple[tuple[tuple[tuple[int, ...], Trace], ...], Ended]:  # fmt: skip
    """A training script as several ranks of a world, each in a process of its own.

    Args:
        which: `all`, `distinct` (the first, those that it exchanges messages with, and the last), or `0,3,7`.
        here: any rank of the world.

    Returns:
        The ranks whose runs are the same, with that run; and how the first ended that did not end well.

    Raises:
        MemgraphError: a rank failed, or waits for one that never comes.
    """
    from memgraph.study.ranks import Script, alike, parse_ranks
    from memgraph.study.ranks import run_ranks as run

    what = Script(
        script, tuple(arguments), module, gpu or default_gpu(), memory, alloc_conf, steps, fraction, torch,
        tuple(change), here.world, here.per_node,
    )  # fmt: skip
    ran = run(what, parse_ranks(which, here.world))
    ended = next((one.ended for one in ran if one.ended.code), ran[0].ended)
    return tuple((tuple(one.rank for one in group), group[0].trace) for group in alike(ran)), ended


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
    from memgraph.capture.real.recording import recording

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
    from memgraph.study.run import record_steps as run

    return run(options, via, cap=cap, ops=ops, log=log)


def record_times(options: Options) -> MeasuredTimes:
    """What the ops of the step that the options describe take on the real GPU, for `plan_checkpoints`.

    The steps run anew, and one more under PyTorch's profiler. That slows what comes after it: do it last.

    Raises:
        UsageError: the options are for a compiled step, which has kernels of its own.
        MemgraphError: there is no GPU, or the step fails.
    """
    from memgraph.study.run import record_times as run

    return run(options)


def record_script(
    script: str, arguments: Sequence[str] = (), via: str = "history", *, module: bool = False,
    steps: int | None = None, cap: int | None = None, ops: bool = False, log: Path | None = None,
) -> tuple[Trace, Ended]:  # fmt: skip
    """A training script, unmodified, on the real GPU; as `run_script` without one.

    Raises:
        UsageError: there is no such script.
        MemgraphError: there is no GPU.
    """
    from memgraph.capture.real.recording import record_script as run

    return run(script, arguments, via, module=module, steps=steps, cap=cap, ops=ops, log=log)


__all__ = ["Options", "Progress", "Trace", "apply_checkpoints", "default_gpu", "load", "plan_checkpoints", "predict",
           "record", "record_script", "record_steps", "record_times", "run_script", "virtual_gpu"]  # fmt: skip
