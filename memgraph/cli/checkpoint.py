"""`memgraph checkpoint`: which layers to recompute so that the step fits."""

from __future__ import annotations

import contextlib
import json
from pathlib import Path

import click

from memgraph.cli.format import format_option
from memgraph.cli.numbers import a_number
from memgraph.cli.progress import ProgressBar
from memgraph.cli.several import Chosen, one, run_options
from memgraph.errors import DoesNotFit, MemgraphError, UsageError, unknown_name
from memgraph.plan.answer import Answer
from memgraph.plan.cost import CALL
from memgraph.plan.plan_file import Plan
from memgraph.plan.times import load_times
from memgraph.trace.output_file import check_free, write_file
from memgraph.units import parse_bytes

_PICTURES = (".svg", ".png", ".pdf", ".dot")


@click.command(short_help="Which layers to checkpoint for a budget.")
@run_options(())
@click.option("--budget", metavar="SIZE", help="What PyTorch may take, like 8GiB.  [default: as --memory]")
@click.option("--minimize", type=click.Choice(["time", "memory"]), default="time", show_default=True,
              help="The cheapest plan that fits, or the one with the lowest peak.")  # fmt: skip
@click.option("--pareto", is_flag=True, help="The whole curve of peak against recompute.")
@click.option("--host-cost", type=click.FloatRange(0, 1e9), metavar="MICROSECONDS", callback=a_number,
              default=CALL / 1000,
              show_default=True, help="What the host takes to issue one op.")  # fmt: skip
@click.option("--times", type=click.Path(path_type=Path, dir_okay=False),
              help="What ops take on the card, as `memgraph record --times` measured it.")  # fmt: skip
@click.option("--picture", type=click.Path(path_type=Path, dir_okay=False),
              help="Draw the curve: .svg .png .pdf .dot. With --pareto.")  # fmt: skip
@format_option
@click.option("-o", "--output", type=click.Path(path_type=Path, dir_okay=False), help="Save the plan here.")
@click.option("--force", is_flag=True, help="Overwrite the files.")
def checkpoint(
    chosen: Chosen, budget: str | None, minimize: str, pareto: bool, host_cost: float, times: Path | None,
    picture: Path | None, form: str, output: Path | None, force: bool,
) -> None:  # fmt: skip
    """Find the cheapest set of layers to recompute in the backward so that the step fits.

    A few traces give what each layer keeps and what its recomputation costs; a solver finds the optimum; the plan is
    applied and traced again before it is printed. A budget is what the allocator may reserve: on a card with so much
    the step is not refused.

    \b
    memgraph checkpoint --gpu rtx3090 --batch 32
    memgraph checkpoint --budget 8GiB -o plan.json
    memgraph checkpoint --pareto --picture curve.svg
    memgraph analyze --checkpoint plan.json

    Exit code 3 if no plan fits.
    """
    _check(picture, pareto, output, force)
    size = parse_bytes(budget) if budget is not None else None
    options, measured = one(chosen), None if times is None else load_times(times)
    if options.mesh is not None:
        raise UsageError("a plan is for one GPU: leave --mesh out, or use memgraph analyze --mesh --checkpoint blocks")
    from memgraph.study.planner import Planner
    from memgraph.study.workers import Workers

    with ProgressBar() as bar, contextlib.closing(Workers()) as workers:
        planner = Planner(options, size, bar.show, workers, 1000 * host_cost, measured)
        wanted = planner.pareto if pareto else planner.least_memory if minimize == "memory" else planner.cheapest
        found = wanted()
    _show(found, form)
    if output is not None:
        _plan(found).save(output, force=force)
    if picture is not None:
        _draw(found, picture, force)
    if found.best is None:
        click.get_current_context().exit(DoesNotFit.exit_code)


def _check(picture: Path | None, pareto: bool, output: Path | None, force: bool) -> None:
    """Before anything runs."""
    if picture is not None and not pareto:
        raise UsageError("--picture draws a curve: give --pareto too")
    if picture is not None and picture.suffix.lower() not in _PICTURES:
        raise unknown_name("kind of picture", picture.suffix or picture.name, _PICTURES)
    for path in (picture, output):
        if path is not None:
            check_free(path, force=force)


def _show(found: Answer, form: str) -> None:
    from memgraph.render import checkpoint_json, table_checkpoint

    if form == "json":
        click.echo(json.dumps(checkpoint_json.report(found), indent=2))
    else:
        click.echo(table_checkpoint.report(found))


def _plan(found: Answer) -> Plan:
    if found.best is None:
        raise MemgraphError("there is no plan to save: nothing fits")
    return found.saved(found.best)


def _draw(found: Answer, picture: Path, force: bool) -> None:
    from memgraph.render import dot
    from memgraph.render.dot_pareto import curve

    kind = picture.suffix.lower().removeprefix(".")
    write_file(picture, dot.rendered(curve(found), kind, fixed=True), force=force)
