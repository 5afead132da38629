"""`memgraph advise`: the ways to make it fit."""

from __future__ import annotations

import contextlib
import json

import click

from memgraph.cli.format import format_option
from memgraph.cli.progress import ProgressBar
from memgraph.cli.several import Chosen, one, run_options
from memgraph.errors import DoesNotFit
from memgraph.study.workers import Workers


@click.command(short_help="The ways to make it fit, each with its effect.")
@run_options(())
@click.option("--top", type=click.IntRange(min=1), default=20, show_default=True, help="How many ways to list.")
@format_option
def advise(chosen: Chosen, top: int, form: str) -> None:
    """List the ways to make a training step need less, each traced, with what it costs and the code to write.

    --batch is what one optimizer step should see, on the card of --gpu. If the step does not fit, changes are also
    combined, the cheapest first, until it does.

    \b
    memgraph advise --gpu rtx3090 --batch 32
    memgraph advise --gpu rtx3060 --batch 8 --amp none --set attention=manual

    Exit code 3 if nothing makes it fit.
    """
    from memgraph.render import advice_json, table_advice
    from memgraph.study.advisor import Advisor

    options = one(chosen)
    with ProgressBar() as bar, contextlib.closing(Workers()) as workers:
        found = Advisor(options, bar.show, workers).advise()
    if form == "json":
        click.echo(json.dumps(advice_json.report(found), indent=2))
    else:
        click.echo(table_advice.report(found, top))
    if not any(row.fits for row in (found.now, *found.rows)):
        click.get_current_context().exit(DoesNotFit.exit_code)
