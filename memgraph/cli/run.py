"""`memgraph run`: a training script, unmodified, on a virtual GPU."""

from __future__ import annotations

import contextlib
import json
import shlex
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click

from memgraph.analyze.remedies import Remedy
from memgraph.capture.ended import Ended, in_words, users_traceback
from memgraph.cli.numbers import a_number
from memgraph.cli.progress import ProgressBar
from memgraph.cli.streams import streams_are_there
from memgraph.errors import MemgraphError, UsageError
from memgraph.render import json as render_json
from memgraph.render import table
from memgraph.render.table_ranks import over_ranks
from memgraph.study.script_runs import Script
from memgraph.trace import Trace
from memgraph.units import parse_bytes
from memgraph.world.place import Place, place


@click.command(
    short_help="Run a training script, unmodified, on a virtual GPU.",
    context_settings={"allow_interspersed_args": False, "ignore_unknown_options": False},
)
@click.option("--gpu", help="A card of `memgraph gpus`.  [default: the visible one, or rtx3090]")
@click.option(
    "--memory", metavar="SIZE", help="What PyTorch may take, like 24GiB.  [default: the card's, less its context]"
)
@click.option("--alloc-conf", help="As PYTORCH_CUDA_ALLOC_CONF.  [default: the environment's]")
@click.option("--torch", metavar="RELEASE", help="Of the machine that will run it, like 2.11.  [default: installed]")
@click.option("--steps", type=click.IntRange(min=1), metavar="N", help="Stop after N optimizer steps.")
@click.option(
    "--select", type=click.FloatRange(0, 1), callback=a_number, default=1.0, show_default=True, metavar="SHARE",
    help="How much of their bound sizes that depend on data are taken to be.",
)  # fmt: skip
@click.option(
    "--change", "changes", multiple=True,
    type=click.Choice(["fused", "no-foreach", "no-cache", "chunked-loss", "checkpoint", "no-autocast", "no-grad"]),
    metavar="CHANGE",
    help="Run it with this change, which the script does not know of: fused, no-foreach, no-cache, chunked-loss, "
    "checkpoint, no-autocast or no-grad; can be repeated. `memgraph advise SCRIPT` tries all.",
)  # fmt: skip
@click.option(
    "--plan", "planned", type=click.Path(path_type=Path, dir_okay=False), metavar="FILE",
    help="Checkpoint its model as `memgraph checkpoint -o FILE` says.",
)  # fmt: skip
@click.option("--go-on", is_flag=True, help="Where the card is full, go on as if it were larger.")
@click.option(
    "--remedies/--no-remedies", default=None,
    help="Where it is out of memory, run it again with each change that may help.  [default: in a table's report]",
)  # fmt: skip
@click.option("--world", type=int, metavar="W", help="Run it as `torchrun` does, as one of W ranks on NCCL.")
@click.option("--rank", type=int, metavar="R", help="Which of them, from 0.  [default: 0]")
@click.option(
    "--ranks", metavar="WHICH",
    help="Run several: all, distinct (the first, those it exchanges messages with, the last), or numbers like 0,3.",
)  # fmt: skip
@click.option("--gpus-per-node", type=int, metavar="N", help="Ranks of one node.  [default: up to 8]")
@click.option("-m", "module", is_flag=True, help="SCRIPT is a module's name, as for python -m.")
@click.option(
    "--top", type=click.IntRange(min=0), default=8, show_default=True, help="How many of the largest to list."
)
@click.option(
    "--format",
    "form",
    type=click.Choice(["table", "json", "none"]),
    default="table",
    show_default=True,
    help="Of the report.",
)
@click.option("-o", "--output", type=click.Path(path_type=Path, dir_okay=False), help="Save the trace here.")
@click.option("--force", is_flag=True, help="Overwrite the file.")
@click.argument("script")
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED)
def run(
    gpu: str | None, memory: str | None, alloc_conf: str | None, torch: str | None, steps: int | None, select: float,
    changes: tuple[str, ...], planned: Path | None, go_on: bool, remedies: bool | None,
    world: int | None, rank: int | None, ranks: str | None, gpus_per_node: int | None, module: bool,
    top: int, form: str, output: Path | None, force: bool, script: str, arguments: tuple[str, ...],
) -> None:  # fmt: skip
    """Run a training script, unmodified, on a virtual GPU.

    The script sees a CUDA machine: its name, its memory, its statistics, and torch.cuda.OutOfMemoryError where the
    real card would raise it. Nothing is computed. What the script prints comes first, the report after it on stderr
    if it is a table, so that the script's own output stays clean.

    \b
    memgraph run --gpu rtx3090 train.py --batch 8
    memgraph run --gpu t4 --steps 2 -m mypackage.train --config small.yaml
    memgraph run --gpu h100 --world 8 train_fsdp.py
    memgraph run --gpu h100 --world 4 --ranks distinct train_pipeline.py
    """
    here = place_of(world, rank, gpus_per_node)
    size = parse_bytes(memory) if memory is not None else None
    if output is not None:
        from memgraph.trace.output_file import check_free

        check_free(output, force=force)
    if ranks is not None:
        if here is None or rank is not None:
            raise UsageError("--ranks is of a world, and instead of --rank: write --world W --ranks all")
        _run_ranks(script, arguments, ranks, here, top, form, output, force=force, module=module, gpu=gpu, memory=size,
                   alloc_conf=alloc_conf, steps=steps, fraction=select, torch=torch, change=changes)  # fmt: skip
        return
    from memgraph.api import run_script
    from memgraph.plan.plan_file import load_plan

    begun = time.monotonic()
    trace, ended = run_script(
        script, arguments, module=module, gpu=gpu, memory=size, alloc_conf=alloc_conf, steps=steps, fraction=select,
        torch=torch, place=here, change=changes, plan=load_plan(planned) if planned else None, go_on=go_on,
    )  # fmt: skip
    streams_are_there()
    sys.stdout.flush()
    if output is not None:
        trace.save(output, force=force)
    tried = None
    if here is None and not changes and planned is None and (form == "table" if remedies is None else remedies):
        lasted = time.monotonic() - begun
        tried = _tried(
            trace, Script(script, arguments, module, gpu, size, alloc_conf, torch, steps or 0, select, lasted)
        )
    _report(trace, form, top, tried)
    misplaced = ended.code == 2 and [one for one in arguments if one in _own_options()]
    if misplaced:
        click.echo(f"\n{misplaced[0]} went to {script}: what is memgraph's stands before the script", err=True)
    elif form == "table" and (not trace.fits or (trace.peak.reserved and ended.error is None)):
        further = _timeline(output, script) if trace.fits else _advise(gpu, memory, module, script, arguments)
        if select == 1 and any("are taken to be selected" in text for text in trace.assumptions):
            further = f"add --select 0.25 if that share of what data select is nearer; or {further}"
        click.echo(f"\nnext: {further}", err=True)
    end(ended)


_LONGER = 10
"""Times that a run with a change may take as long, or a minute, before it is given up."""


def _tried(trace: Trace, script: Script) -> tuple[Remedy, ...] | None:
    """What helps a script that was out of memory; None if it was not, or it was interrupted. ^C ends the trying."""
    from memgraph.analyze.failures import failure
    from memgraph.study.script_advice import remedies

    found = failure(trace)
    if found is None:
        return None
    steps = max(2, found.phase.step + 1)
    again = script._replace(steps=min(steps, script.steps or steps), patience=max(60, _LONGER * (script.patience or 0)))
    with ProgressBar() as bar, contextlib.suppress(KeyboardInterrupt):
        return remedies(again, trace, bar.show)
    return None


def _own_options() -> set[str]:
    """The names of options that are `run`'s own, and of few scripts."""
    options = click.get_current_context().command.params
    return {name for one in options if isinstance(one, click.Option) for name in one.opts} - {"--steps", "-m"}


def _timeline(output: Path | None, script: str) -> str:
    """The command that draws the run, or what lets it."""
    if output is None:
        name = script if len(script) < 40 else Path(script).name
        return f"add -o run.memgraph before {name}, and draw it:\n  memgraph timeline run.memgraph -o run.html"
    return shlex.join(["memgraph", "timeline", str(output), "-o", str(output.with_suffix(".html"))])


def _advise(gpu: str | None, memory: str | None, module: bool, script: str, arguments: tuple[str, ...]) -> str:
    """The command that tries what would make it fit."""
    options = [
        *(("--gpu", gpu) if gpu else ()),
        *(("--memory", memory) if memory else ()),
        *(("-m",) if module else ()),
    ]
    return shlex.join(["memgraph", "advise", *options, script, *arguments])


def _run_ranks(
    script: str, arguments: tuple[str, ...], which: str, here: Place, top: int, form: str, output: Path | None, *,
    force: bool, **how: Any,
) -> None:  # fmt: skip
    """Several ranks: a table over them, and the report of the one that takes the most."""
    from memgraph.api import run_ranks

    rows, ended = run_ranks(script, arguments, which, here, **how)
    streams_are_there()
    sys.stdout.flush()
    heaviest = max((trace for _, trace in rows), key=lambda trace: trace.peak.reserved)
    if output is not None:
        heaviest.save(output, force=force)
    if form == "json":
        each = [{"ranks": list(ranks), **render_json.report(trace, top)} for ranks, trace in rows]
        click.echo(json.dumps({"world": here.world, "ranks": each}, indent=2))
    elif form == "table":
        click.echo(f"\n{over_ranks(rows, here.world)}\n\n{table.report(heaviest, top)}", err=True)
    end(ended)


def place_of(world: int | None, rank: int | None, per_node: int | None) -> Place | None:
    """The rank of a world that the options say, if they do.

    Raises:
        UsageError: there is no such rank, or no world that it is of.
    """
    if world is not None:
        return place(world, rank or 0, per_node)
    if rank is not None or per_node is not None:
        raise UsageError("--rank and --gpus-per-node are of a world: add --world W")
    return None


def _report(trace: Trace, form: str, top: int, tried: Sequence[Remedy] | None) -> None:
    if form == "json":
        click.echo(json.dumps(render_json.report(trace, top, tried=tried), indent=2))
    elif form == "table":
        click.echo(f"\n{table.report(trace, top, tried=tried)}", err=True)


def end(ended: Ended) -> None:
    """End as the script did: with its exit code, its message or its traceback."""
    if ended.error is not None:
        click.echo(users_traceback(ended.error), err=True)
        raise MemgraphError(f"the script failed: {type(ended.error).__name__}: {in_words(ended.error)}")
    if ended.message:
        click.echo(ended.message, err=True)
    if ended.code:
        click.get_current_context().exit(ended.code)
