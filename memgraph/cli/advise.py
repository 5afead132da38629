"""`memgraph advise`: the ways to make it fit."""

from __future__ import annotations

import contextlib
import json

import click

from memgraph.cli.format import format_option
from memgraph.cli.progress import ProgressBar
from memgraph.cli.several import Chosen, given, one, run_options
from memgraph.errors import DoesNotFit, UsageError
from memgraph.study.workers import Workers
from memgraph.units import parse_bytes


@click.command(
    short_help="The ways to make it fit, each with its effect.", context_settings={"allow_interspersed_args": False}
)
@run_options(())
@click.option("-m", "module", is_flag=True, help="SCRIPT is a module's name, as for python -m.")
@click.option("--top", type=click.IntRange(min=1), default=20, show_default=True, help="How many ways to list.")
@format_option
@click.argument("script", nargs=-1, metavar="[SCRIPT] [ARGUMENTS]...", type=click.UNPROCESSED)
def advise(chosen: Chosen, module: bool, top: int, form: str, script: tuple[str, ...]) -> None:
    """List the ways to make a training step need less, each traced, with what it costs and the code to write.

    --batch is what one optimizer step should see, on the card of --gpu. If the step does not fit, changes are also
    combined, the cheapest first, until it does.

    \b
    memgraph advise --gpu rtx3090 --batch 32
    memgraph advise --gpu rtx3060 --batch 8 --amp none --set attention=manual

    memgraph advise --gpu rtx3060 train.py --batch-size 32

    With SCRIPT, a training script is run again and again, each time with a change that can be made without its help,
    up to the end of step --steps; a smaller batch is found where an argument names it. Of the other options --gpu,
    --memory, --alloc-conf and --torch count.

    Exit code 3 if nothing makes it fit.
    """
    if script:
        _advise_script(chosen, module, form, script)
        return
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


def _advise_script(chosen: Chosen, module: bool, form: str, script: tuple[str, ...]) -> None:
    from memgraph.render import table_remedies
    from memgraph.study.script_advice import advise_script
    from memgraph.study.script_runs import Script

    wrong = [name for name in given() if name not in ("gpu", "memory", "alloc_conf", "torch", "steps")]
    if wrong:
        raise UsageError(f"--{wrong[0].replace('_', '-')} describes a run, and {script[0]} is a script: leave it out")
    memory = chosen["memory"][0]
    wanted = Script(
        script[0], script[1:], module, chosen["gpu"][0], parse_bytes(memory) if memory else None,
        chosen["alloc_conf"][0], chosen["torch"][0], chosen["steps"][0],
    )  # fmt: skip
    with ProgressBar() as bar:
        found = advise_script(wanted, bar.show)
    if form == "json":
        click.echo(json.dumps({"fits": found.now.fits, "changes": table_remedies.rows(found)}, indent=2))
    else:
        click.echo(table_remedies.report(found))
    if not any(trace.fits for trace in (found.now, *(row.trace for row in found.rows))):
        click.get_current_context().exit(DoesNotFit.exit_code)
