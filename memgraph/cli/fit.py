"""`memgraph fit`: the largest batch for each card and length."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import re
import sys
from typing import TYPE_CHECKING

import click

from memgraph.cli.format import format_option
from memgraph.cli.progress import ProgressBar
from memgraph.cli.several import Chosen, given, one, run_options
from memgraph.errors import DoesNotFit, UsageError
from memgraph.gpu.specs import find
from memgraph.models.registry import resolve
from memgraph.options import CHECKPOINTS, Options
from memgraph.render import fit_json, fleet_json, heatmap, table_fit, table_fleet
from memgraph.units import parse_bytes

if TYPE_CHECKING:
    from memgraph.study.study import Headroom


def _numbers(_context: click.Context, _parameter: click.Parameter, text: str | None) -> tuple[int, ...]:
    if text is None:
        return ()
    try:
        return tuple(sorted({int(part) for part in text.split(",")}))
    except ValueError:
        raise UsageError(f"--gpus {text}: write numbers of cards, like 8,16") from None


@click.command(short_help="The largest batch for each card and length.")
@run_options(("gpu", "seq", "batch"))
@click.option("--headroom", default="0%", show_default=True, metavar="SIZE|SHARE", help="To stay free: 1GiB or 10%.")
@click.option("--confirm/--no-confirm", default=True, help="Trace each answer and one sample more.  [default: confirm]")
@click.option("--gpus", metavar="N[,…]", callback=_numbers, help="Which meshes of so many cards it fits on.")
@click.option("--meshes", type=click.IntRange(min=1), default=4, show_default=True,
              help="With --gpus, how many that fit are enough, the simplest first.")  # fmt: skip
@format_option
def fit(chosen: Chosen, headroom: str, confirm: bool, gpus: tuple[int, ...], meshes: int, form: str) -> None:
    """Find the largest batch that fits, for every card and every length.

    A few traces give the laws by which every tensor grows; the search asks them and the model of the allocator, and
    each answer is traced again, with one sample more. With --batch, a map of those batches and lengths is drawn too.

    \b
    memgraph fit --gpu rtx3090 --seq 128,256,512,1024
    memgraph fit --gpu rtx4090,a100-40gb --seq 512 --headroom 1GiB
    memgraph fit --seq 128,256,384,512 --batch 1,2,4,8,16,32
    memgraph fit --model transformers:llama-8b --seq 8192 --gpu h100 --gpus 1,8

    With --gpus, --batch is what each copy of the model is given at a time (1 unless it is said), and without
    --checkpoint a mesh on which the step does not fit is tried with it.

    Exit code 3 if not even one sample fits anywhere.
    """
    from memgraph.api import default_gpu
    from memgraph.study.study import Study
    from memgraph.study.workers import Workers

    free = parse_headroom(headroom)
    options = one(chosen)
    if gpus:
        _on_so_many(options, gpus, free, meshes, form)
        return
    cards = [find(gpu).name for gpu in chosen["gpu"]] if chosen["gpu"] != [None] else [default_gpu()]
    seqs = chosen["seq"] if chosen["seq"] != [None] else [resolve(options.model, options.task).default_seq]
    _check_sizes(seqs, chosen["batch"])
    with ProgressBar() as bar, contextlib.closing(Workers()) as workers:
        study = Study(options, bar.show, workers)
        cells = study.grid(cards, seqs, chosen["batch"], free) if "batch" in given() else []
        limits = study.limits(cards, seqs, free, confirm=confirm)
    if form == "json":
        click.echo(json.dumps(fit_json.report(limits, cells), indent=2))
    else:
        click.echo(table_fit.report(limits))
        if cells:
            click.echo(f"\n{heatmap.report(cells, _paint, _draws_shades())}")
    if not any(limit.batch for limit in limits):
        click.get_current_context().exit(DoesNotFit.exit_code)


def _on_so_many(options: Options, gpus: tuple[int, ...], headroom: Headroom, meshes: int, form: str) -> None:
    """The meshes of so many cards."""
    from memgraph.api import default_gpu
    from memgraph.study.fleet import meshes_that_fit

    card = find(options.gpu or default_gpu())
    memory = options.memory or card.memory - card.context
    wanted = dataclasses.replace(
        options, gpu=card.name, memory=max(1, memory - headroom.of(memory)),
        batch=options.batch if "batch" in given() else 1,
    )  # fmt: skip
    checkpoints = (options.checkpoint,) if "checkpoint" in given() else CHECKPOINTS
    with ProgressBar() as bar:
        found = meshes_that_fit(wanted, gpus, checkpoints, bar.show, meshes)
    if form == "json":
        click.echo(json.dumps(fleet_json.report(found.fits, found.refused, found.untried), indent=2))
    else:
        click.echo(table_fleet.report(found.fits, found.refused, found.untried))
    if not found.fits:
        click.get_current_context().exit(DoesNotFit.exit_code)


def parse_headroom(text: str) -> Headroom:
    """`10%` or `1GiB`.

    Raises:
        UsageError: neither, or all of the memory and more.
    """
    from memgraph.study.study import Headroom

    share = re.fullmatch(r"\s*([0-9]+(?:\.[0-9]+)?)\s*%\s*", text)
    if share is None:
        return Headroom(bytes=parse_bytes(text))
    if float(share[1]) >= 100:
        raise UsageError(f"--headroom {text} leaves nothing: give less than 100%")
    return Headroom(share=float(share[1]) / 100)


def _check_sizes(seqs: list[int | None], batches: list[int | None]) -> None:
    for name, sizes in (("seq", seqs), ("batch", batches)):
        for size in sizes:
            if size is not None and size < 1:
                raise UsageError(f"{name} is {size}: it must be at least 1")


def _draws_shades() -> bool:
    """Whether stdout is a terminal that can show block characters."""
    return sys.stdout.isatty() and (sys.stdout.encoding or "").lower().startswith("utf")


def _paint(colour: str, text: str) -> str:
    return click.style(text, fg=colour) if not os.environ.get("NO_COLOR") and sys.stdout.isatty() else text
