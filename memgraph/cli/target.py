"""What a command looks at: a saved trace, or a model to run. The same options everywhere."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import click

from memgraph.cli.progress import ProgressBar
from memgraph.errors import UsageError
from memgraph.files.any_file import load
from memgraph.mesh import FSDP, REDUCE_DTYPES, mesh_of
from memgraph.options import AMP, CHECKPOINTS, COMPILES, DTYPES, OPTIMIZER_FORMS, OPTIMIZERS, ZERO_GRADS, Options
from memgraph.trace import Trace
from memgraph.trace.output_file import check_free
from memgraph.units import parse_bytes

Command = Callable[..., Any]
MESH_NAMES = ("mesh", "world", "fsdp", "reshard", "reduce_dtype", "rank")

RUN_OPTIONS = (
    click.option(
        "--model",
        default="nanovlm-222m",
        show_default=True,
        help="nanovlm-222m or nanovlm-460m, package.module:factory, or transformers:CONFIG.",
    ),
    click.option("--task", metavar="TASK", help="Of a transformers: model, like causal-lm.  [default: its own]"),
    click.option("--batch", type=int, help="Samples a step.  [default: 8]"),
    click.option("--seq", type=int, help="Tokens a sample.  [default: the model's own]"),
    click.option("--gpu", help="A card of `memgraph gpus`.  [default: the visible one, or rtx3090]"),
    click.option(
        "--memory", metavar="SIZE", help="What PyTorch may take, like 24GiB.  [default: the card's, less its context]"
    ),
    click.option("--amp", default="bf16", show_default=True, metavar="|".join(AMP), help="Autocast."),
    click.option("--dtype", default="float32", show_default=True, metavar="|".join(DTYPES), help="Of the parameters."),
    click.option(
        "--optimizer", default="adamw", show_default=True, metavar="|".join(OPTIMIZERS), help="The optimizer."
    ),
    click.option(
        "--optimizer-impl", default="default", show_default=True, metavar="|".join(OPTIMIZER_FORMS), help="Its form."
    ),
    click.option(
        "--steps", type=int, default=2, show_default=True, help="Steps to run; the second has optimizer state."
    ),
    click.option(
        "--set", "settings", multiple=True, metavar="FIELD=VALUE", help="A field of the model's configuration; repeat."
    ),
    click.option(
        "--checkpoint",
        default="none",
        show_default=True,
        metavar="|".join((*CHECKPOINTS, "PLAN")),
        help="Recompute blocks in the backward, or what a plan's file says.",
    ),
    click.option("--freeze", default="", metavar="MODULE[,…]", help="Modules that are not trained."),
    click.option(
        "--zero-grad", default="none", show_default=True, metavar="|".join(ZERO_GRADS), help="Gradients between steps."
    ),
    click.option("--clip", type=float, help="Clip the gradients' norm."),
    click.option("--accumulate", type=int, default=1, show_default=True, help="Micro-batches a step."),
    click.option(
        "--compile",
        default="none",
        is_flag=False,
        flag_value="default",
        metavar="[MODE]",
        help=f"Through torch.compile; MODE is {', '.join(COMPILES[1:-1])} or {COMPILES[-1]}.",
    ),
    click.option(
        "--activation-memory-budget",
        type=float,
        default=1.0,
        show_default=True,
        metavar="SHARE",
        help="Of its activations that a compiled model may save.",
    ),
    click.option("--alloc-conf", help="As PYTORCH_CUDA_ALLOC_CONF.  [default: the environment's]"),
    click.option(
        "--torch", metavar="RELEASE", help="Of the machine that will run it, like 2.11.  [default: installed]"
    ),
    click.option("--mesh", metavar="DIM=SIZE[,…]", help="Spread it over ranks: dp=8,tp=2; also pp, cp, replicate."),
    click.option("--world", type=int, metavar="W", help="Ranks in all: dp is what --mesh leaves of it."),
    click.option(
        "--fsdp", default="none", show_default=True, metavar="|".join(FSDP), help="What fully_shard is put on."
    ),
    click.option("--reshard", default="yes", show_default=True, metavar="yes|no|N", help="FSDP, after the forward."),
    click.option("--reduce-dtype", metavar="|".join(REDUCE_DTYPES), help="FSDP's gradients.  [default: their own]"),
    click.option("--rank", type=int, default=0, show_default=True, metavar="R", help="Which rank of the mesh."),
)


def target_options(command: Command) -> Command:
    """Give a command the argument TRACE and the options of a run; it is called with `trace`. If the command has an
    `output` and a `force`, whether the file may be written is asked before anything runs. If it has `laws` and they are
    wanted, it is called with `neighbours` too: the same run at other sizes, for `memgraph.analyze.laws`. If it has
    `ranks`, it is called with `world` for a run on a mesh: its ranks, and the step on one GPU."""

    @click.argument("trace_file", metavar="[TRACE]", required=False, type=click.Path(path_type=Path))
    @functools.wraps(command)
    def with_target(trace_file: Path | None, **values: Any) -> Any:
        chosen = {name: values.pop(name) for name in RUN_NAMES}
        libraries = values.pop("lines", "own") == "library"
        if values.get("output") is not None:
            check_free(values["output"], force=values.get("force", False))
        if values.get("laws") or values.get("by") == "law":
            trace, values["neighbours"] = _with_neighbours(trace_file, chosen)
        elif trace_file is None and "ranks" in values:
            trace, values["world"] = _on_ranks(chosen, values["ranks"], alone=values["one_gpu"])
        else:
            trace = _saved(trace_file, libraries) if trace_file is not None else _predicted(chosen)
        return command(trace=trace, **values)

    for option in reversed(RUN_OPTIONS):
        with_target = option(with_target)
    return with_target


RUN_NAMES = (
    "model", "task", "batch", "seq", "gpu", "memory", "amp", "dtype", "optimizer", "optimizer_impl", "steps",
    "settings", "checkpoint", "freeze", "zero_grad", "clip", "accumulate", "compile", "activation_memory_budget",
    "alloc_conf", "torch", *MESH_NAMES,
)  # fmt: skip


def _saved(path: Path, libraries: bool = False) -> Trace:
    flags = given(RUN_NAMES)
    card = {name: flags.pop(name) for name in ("gpu", "memory") if name in flags}
    if flags:
        raise UsageError(
            f"{next(iter(flags.values()))} describes a run, and {path} is one already: give one or the other"
        )
    trace = load(path, libraries=libraries)
    if card and trace.origin == "predicted":
        raise UsageError(f"{next(iter(card.values()))} describes a run, and {path} is one that was predicted for "
                         f"{trace.gpu}: predict it for the other card")  # fmt: skip
    return _against(trace) if card else trace


def _against(trace: Trace) -> Trace:
    """A recording, held against the card that is named: what ran on another card is not what would run on this."""
    from memgraph.gpu.specs import find

    chosen = click.get_current_context().params
    card = find(chosen["gpu"]) if chosen["gpu"] is not None else None
    size = parse_bytes(chosen["memory"]) if chosen["memory"] is not None else None
    assert card is not None or size is not None
    memory = size if size is not None else card.memory - card.context if card is not None else 0
    note = f"recorded on {'an unknown card' if trace.gpu == 'unknown' else trace.gpu}; held against " + (
        card.title if card is not None else "the memory that was named"
    )
    return dataclasses.replace(trace, memory=memory, gpu=card.name if card else trace.gpu,
                               assumptions=(*trace.assumptions, note))  # fmt: skip


def given(names: Iterable[str]) -> dict[str, str]:
    """Those of the options that stand on the command line, and how they are written there."""
    context = click.get_current_context()
    flags = {parameter.name: parameter.opts[0] for parameter in context.command.params}
    return {
        name: flags[name]
        for name in names
        if context.get_parameter_source(name) is click.core.ParameterSource.COMMANDLINE
    }


def _predicted(chosen: dict[str, Any]) -> Trace:
    options = to_options(chosen)
    from memgraph.api import predict  # after the options are known to be good: it imports torch

    with ProgressBar() as bar:
        return predict(options, bar.show)


def _on_ranks(chosen: dict[str, Any], which: str | None, *, alone: bool) -> tuple[Trace, Any]:
    """The trace of the heaviest rank that was asked for; and the world, if there is one."""
    options = to_options(chosen)
    from memgraph.study.mesh_ranks import trace_world

    if options.mesh is None and which is None:
        return _predicted(chosen), None
    with ProgressBar() as bar:
        world = trace_world(options, which, alone=alone, progress=bar.show)
    return world.heaviest, world


def _with_neighbours(path: Path | None, chosen: dict[str, Any]) -> tuple[Trace, list[Trace]]:
    saved = _saved(path) if path is not None else None
    options = to_options(chosen)
    if options.mesh is not None or (saved is not None and "mesh" in saved.settings):
        raise UsageError("laws are those of a run on one GPU: leave --mesh out, or trace each size by itself")
    from memgraph.study.study import neighbours_of, with_neighbours
    from memgraph.study.workers import Workers

    with ProgressBar() as bar, contextlib.closing(Workers()) as workers:
        if saved is not None:
            return saved, neighbours_of(saved, bar.show, workers)
        return with_neighbours(options, bar.show, workers)


def to_options(chosen: dict[str, Any]) -> Options:
    """The options as given on the command line, checked as far as possible without torch.

    Raises:
        UsageError: one of them is wrong.
    """
    from memgraph.gpu.allocator.config import AllocatorConfig
    from memgraph.gpu.specs import find
    from memgraph.models.registry import resolve

    values = dict(chosen)
    values["set"] = _fields(values.pop("settings"))
    text, world, fsdp, reshard, reduce_dtype, rank = (values.pop(name) for name in MESH_NAMES)
    values["mesh"] = mesh_of(text, world, fsdp, reshard, reduce_dtype, rank)
    values["memory"] = parse_bytes(values["memory"]) if values["memory"] is not None else None
    values["batch"] = 8 if values["batch"] is None else values["batch"]
    resolve(values["model"], values["task"])
    if values["gpu"] is not None:
        find(values["gpu"])
    if values["alloc_conf"] is not None:
        AllocatorConfig.parse(values["alloc_conf"])
    return Options(**values)


def _fields(texts: Iterable[str]) -> dict[str, str]:
    fields: dict[str, str] = {}
    for name, value in map(_pair, texts):
        if fields.setdefault(name, value) != value:
            raise UsageError(f"--set {name} is given twice, as {fields[name]} and as {value}: give one of them")
    return fields


def _pair(text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not equals or not name:
        raise UsageError(f"--set {text}: write it like --set vit_img_size=256")
    return name.strip(), value.strip()
