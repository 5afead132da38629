"""`memgraph diff`: why two runs need different memory."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import click

from memgraph.analyze.diff import difference
from memgraph.cli.format import format_option
from memgraph.cli.progress import ProgressBar
from memgraph.cli.several import Chosen, given, pair, run_options
from memgraph.errors import UsageError
from memgraph.files.any_file import load
from memgraph.options import Options
from memgraph.render import diff_json, table_diff
from memgraph.trace import Trace


@click.command(short_help="Why two runs need different memory.")
@click.argument("traces", nargs=-1, metavar="[A] [B]", type=click.Path(path_type=Path))
@run_options()
@click.option("--top", type=click.IntRange(min=0), default=8, show_default=True, help="Lines of each split.")
@format_option
def diff(traces: tuple[Path, ...], chosen: Chosen, top: int, form: str) -> None:
    """Say why two runs need different memory: the change of the requested peak, in parts that add up to it.

    Compare two trace files, or one with the run that the options describe (what they leave out is as in the file), or
    two runs: options with two values.

    \b
    memgraph diff --seq 128,512
    memgraph diff --optimizer adamw,sgd --batch 1
    memgraph diff --model transformers:llama-8b --fsdp blocks --world 8,128
    memgraph diff before.memgraph after.memgraph
    memgraph diff before.memgraph --batch 16
    """
    before, after = _sides(traces, chosen)
    found = difference(before, after)
    if form == "json":
        click.echo(json.dumps(diff_json.report(found, top), indent=2))
    else:
        click.echo(table_diff.report(found, top))


def _sides(paths: tuple[Path, ...], chosen: Chosen) -> tuple[Trace, Trace]:
    if len(paths) > 2:
        raise UsageError(f"{len(paths)} traces: a difference is between two")
    if len(paths) == 2:
        if given():
            raise UsageError(f"--{given()[0].replace('_', '-')} describes a run, and there are two traces already")
        return load(paths[0]), load(paths[1])
    if paths:
        saved = load(paths[0])
        return saved, _predicted(_like(saved, chosen))
    before, after = pair(chosen)
    if before.mesh or after.mesh:
        return _predicted_apart(before, after)
    return _predicted(before), _predicted(after)


def _like(saved: Trace, chosen: Chosen) -> Options:
    """The options given, and the trace's own for the rest."""
    from memgraph.cli.several import one
    from memgraph.study.study import options_of

    options = one(chosen)
    if "model" not in saved.settings:
        return options
    names = [{"settings": "set"}.get(name, name) for name in given()]
    return dataclasses.replace(options_of(saved), **{name: getattr(options, name) for name in names})


def _predicted_apart(before: Options, after: Options) -> tuple[Trace, Trace]:
    """Each world in a process of its own."""
    from memgraph.study.apart import traced_apart

    with ProgressBar() as bar:
        one, other = traced_apart([before, after], bar.show)
        return one, other


def _predicted(options: Options) -> Trace:
    from memgraph.api import predict

    with ProgressBar() as bar:
        bar.show(f"batch {options.batch}" + (f", seq {options.seq}" if options.seq else ""), 0, None)
        return predict(options, bar.show)
