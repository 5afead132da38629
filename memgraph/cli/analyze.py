"""`memgraph analyze`: predict one training step and say where the memory goes."""

from __future__ import annotations

import json
import os
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from memgraph.analyze.laws import growth, laws_for
from memgraph.analyze.peak import has_no_history, verdict
from memgraph.cli.format import format_option
from memgraph.cli.target import target_options
from memgraph.errors import DoesNotFit
from memgraph.gpu.specs import all_gpus
from memgraph.render import json as render_json
from memgraph.render import ranks_json, table, table_laws
from memgraph.render.table_ranks import one_gpu_in_words, over_ranks
from memgraph.render.words import fill
from memgraph.trace import Trace

if TYPE_CHECKING:
    from memgraph.study.mesh_ranks import World


@click.command(short_help="Predict one training step: where the memory goes.")
@target_options
@click.option(
    "--top", type=click.IntRange(min=0), default=8, show_default=True, help="How many of the largest to list."
)
@click.option("--laws", is_flag=True, help="How each grows with batch and length; traces three more sizes.")
@click.option(
    "--by",
    type=click.Choice(["law"]),
    help="Group the peak by its growth: what grows as S², what does not. With --laws.",
)
@click.option(
    "--lines",
    type=click.Choice(["own", "library"]),
    default="own",
    show_default=True,
    help="Of a run in a file: your own lines beside those of the libraries that they call, or the latter alone.",
)
@click.option("--ranks", metavar="WHICH", help="Several ranks of a mesh: all, distinct, or numbers like 0,3.")
@click.option("--one-gpu/--no-one-gpu", default=True, help="With a mesh, what the step takes on one GPU.")
@format_option
@click.option("-o", "--output", type=click.Path(path_type=Path, dir_okay=False), help="Save the trace here.")
@click.option("--force", is_flag=True, help="Overwrite the file.")
def analyze(
    trace: Trace,
    top: int,
    laws: bool,
    by: str | None,
    form: str,
    output: Path | None,
    force: bool,
    ranks: str | None = None,
    one_gpu: bool = True,
    neighbours: Sequence[Trace] = (),
    world: World | None = None,
) -> None:
    """Predict one training step, and say where the memory goes and whether it fits.

    The step really runs, forward, backward and optimizer, on a CUDA device that is not there. TRACE is a saved trace;
    without one, the options say what to run.

    \b
    memgraph analyze --seq 512
    memgraph analyze --batch 32 --gpu a100-40gb --checkpoint blocks
    memgraph analyze step.memgraph --by law
    memgraph analyze --model mypackage.train:make --format json
    memgraph analyze --model transformers:llama-8b --mesh dp=8,tp=2 --gpu h100
    """
    if output is not None:
        trace.save(output, force=force)
    found = laws_for(trace, neighbours) if laws or by else {}
    grown = growth(trace, neighbours) if by == "law" else ()
    if form == "json":
        told = render_json.report(trace, top, found, grown)
        click.echo(json.dumps(told | (ranks_json.world(world) if world else {}), indent=2))
    else:
        if world and len(world.rows) > 1:
            click.echo(f"{over_ranks(world.rows, world.mesh.world)}\n")
        click.echo(table.report(trace, top, _paint, _draws_blocks(), found))
        if world and world.alone:
            click.echo(f"\n{one_gpu_in_words(world.alone)}")
        if grown:
            click.echo(f"\n{table_laws.by_degree(grown)}")
        if trace.origin == "predicted" and isinstance(trace.settings.get("batch"), int):
            click.echo(f"\n{_next_steps(trace, by, output)}")
        elif "snapshot" in trace.settings:
            click.echo(f"\n{fill(f'next: {_after_a_snapshot(trace)}', subsequent_indent='  ')}")
    if not verdict(trace).fits:
        click.get_current_context().exit(DoesNotFit.exit_code)


def _paint(colour: str, text: str) -> str:
    wanted = sys.stdout.isatty() and not os.environ.get("NO_COLOR")
    return click.style(text, fg=colour, bold=True) if wanted else text


def _draws_blocks() -> bool:
    """Whether stdout is a terminal that can show block characters."""
    return sys.stdout.isatty() and (sys.stdout.encoding or "").lower().startswith("utf")


def _next_steps(trace: Trace, by: str | None, output: Path | None) -> str:
    """Options to add to the same command. A saved trace has its size already, and is saved."""
    saved = click.get_current_context().params["trace_file"] is not None
    steps = [] if saved else [_next_size(trace)]
    steps += ["--by law"] if by is None and "mesh" not in trace.settings else []
    steps += ["--top 20" if saved or output is not None else "-o step.memgraph"]
    return f"next: add {', '.join(steps)} or --format json"


def _after_a_snapshot(trace: Trace) -> str:
    """What to do with a file that somebody recorded."""
    if has_no_history(trace):
        return (
            "torch.cuda.memory._record_memory_history() before the steps, and _dump_snapshot after them: then it says "
            "what they need"
        )
    path = str(click.get_current_context().params["trace_file"])
    return shlex.join(["memgraph", "timeline", path, "-o", str(Path(path).with_suffix(".html"))])


def _next_size(trace: Trace) -> str:
    """What to try next: more if it fits, less if it does not, and at the smallest a larger card."""
    batch: int = trace.settings["batch"]
    if trace.fits:
        return f"--batch {2 * batch}"
    if trace.settings.get("checkpoint") == "none":
        return "--checkpoint blocks"
    if batch > 1:
        return f"--batch {batch // 2}"
    larger = [card for card in all_gpus() if card.memory - card.context > trace.peak.reserved]
    return f"--gpu {min(larger, key=lambda card: card.memory).name}" if larger else "--dtype bfloat16"
