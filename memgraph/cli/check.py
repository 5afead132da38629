"""`memgraph check`: a prediction against a recording."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path

import click

from memgraph.analyze.compare import compare, refused_alike, within
from memgraph.cli.format import format_option
from memgraph.errors import OutsideTolerance, UsageError
from memgraph.files.any_file import load
from memgraph.render import check_json, table_check


@click.command(short_help="A prediction against a recording, allocation by allocation.")
@click.argument("predicted", type=click.Path(path_type=Path))
@click.argument("measured", type=click.Path(path_type=Path))
@click.option("--tolerance", metavar="SHARE", help="Exit with 4 if a peak is off by more: 1% or 0.01.")
@click.option("--top", type=click.IntRange(min=0), default=10, show_default=True, help="How many differences to list.")
@format_option
def check(predicted: Path, measured: Path, tolerance: str | None, top: int, form: str) -> None:
    """Compare a prediction with a recording, allocation by allocation, and name what differs.

    Either may be a trace of memgraph, or a pickle of torch.cuda.memory._dump_snapshot.

    \b
    memgraph analyze --gpu h200 -o predicted.memgraph
    memgraph record -o real.memgraph                       where the GPU is
    memgraph check predicted.memgraph real.memgraph --tolerance 1%

    Exit code 4 if a peak, requested, allocated or reserved, is outside the tolerance, or if the two are not out of
    memory at the same allocation.
    """
    allowed = parse_share(tolerance) if tolerance is not None else None
    found = compare(load(predicted), load(measured))
    click.echo(json.dumps(check_json.report(found), indent=2) if form == "json" else table_check.report(found, top))
    if form == "table":
        click.echo(f"\nnext: {shlex.join(['memgraph', 'diff', str(predicted), str(measured)])}")
    if allowed is not None and not within(found, allowed):
        if not refused_alike(found):
            raise OutsideTolerance("the two are not out of memory at the same allocation")
        worst = max(found.peaks, key=lambda figure: abs(figure.ratio - 1))
        raise OutsideTolerance(f"a peak is off by {table_check.off(worst.ratio)}, more than {tolerance}")


def parse_share(text: str) -> float:
    """`1%` or `0.01` as 0.01.

    Raises:
        UsageError: it is neither.
    """
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*(%?)\s*", text)
    if match is None:
        raise UsageError(f"--tolerance {text}: write it like 1% or 0.01")
    return float(match[1]) / (100 if match[2] else 1)
