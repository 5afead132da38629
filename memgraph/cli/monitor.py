"""`memgraph monitor`: has this configuration's memory moved?"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click

from memgraph.analyze.baseline import Moved, baseline_of, moved, read, written
from memgraph.analyze.cause import signed
from memgraph.cli.check import parse_share
from memgraph.cli.format import format_option
from memgraph.cli.target import target_options
from memgraph.errors import OutsideTolerance
from memgraph.trace import Trace
from memgraph.trace.output_file import check_free, write_file
from memgraph.units import format_bytes


def _there(context: click.Context, _parameter: click.Parameter, path: Path) -> Path:
    """A baseline that cannot be read, or may not be written, is said before anything runs."""
    if context.params.get("update"):
        check_free(path, force=context.params.get("force", False))
    else:
        read(path)
    return path


@click.command(short_help="Has this configuration's memory moved since the baseline.")
@target_options
@click.option("--update", is_flag=True, is_eager=True, help="Write what is now as the baseline.")
@click.option("--force", is_flag=True, is_eager=True, help="Overwrite the baseline.")
@click.option("--baseline", type=click.Path(path_type=Path, dir_okay=False), default=Path("memgraph.json"),
              show_default=True, callback=_there, help="What it was.")  # fmt: skip
@click.option("--tolerance", default="0%", show_default=True, metavar="SHARE", help="A change that is no change: 1%.")
@format_option
def monitor(trace: Trace, baseline: Path, update: bool, force: bool, tolerance: str, form: str) -> None:
    """Say in one line whether this configuration needs other memory than it did: for CI, and before a commit.

    Predicts, needs no GPU. The baseline is a small JSON file to keep beside the code.

    \b
    memgraph monitor --batch 8 --update             once
    memgraph monitor --batch 8                      in CI, or before a commit
    memgraph monitor --batch 8 --update --force     when a change is meant

    Exit code 4 if a peak, requested, allocated or reserved, moved by more than the tolerance.
    """
    allowed = parse_share(tolerance)
    now = baseline_of(trace)
    if update:
        write_file(baseline, written(now), force=force)
        click.echo(f"{baseline}: {format_bytes(now.peak['requested'])} requested is the baseline now")
        return
    found = moved(read(baseline), now)
    click.echo(json.dumps(_report(found, allowed), indent=2) if form == "json" else _verdict(found, allowed))
    if found.share > allowed:
        raise OutsideTolerance(f"the memory moved: if that is meant, --update --force writes {baseline} anew")


def _verdict(found: Moved, allowed: float) -> str:
    old, new = found.figures["requested"]
    name, (before, after) = max(found.figures.items(), key=lambda item: abs(item[1][1] - item[1][0]))
    if found.share > allowed:
        if old != new:
            name, before, after = "requested", old, new
        why = "; ".join([*found.settings[:3], *(f"{signed(size)} {what}" for what, size in found.parts[:2])])
        line = f"moved: {signed(after - before)} {name}, {format_bytes(before)} to {format_bytes(after)}"
        return f"{line}: {why}" if why else line
    also = f" ({'; '.join(found.settings)})" if found.settings else ""
    if not found.share:
        return f"unchanged: {format_bytes(new)} requested{also}"
    return (
        f"within the tolerance: {signed(after - before)} {name}, {format_bytes(before)} to {format_bytes(after)}{also}"
    )


def _report(found: Moved, allowed: float) -> dict[str, Any]:
    return {
        "schema": 1, "moved": found.share > allowed, "share": found.share,
        "peak": {name: {"before": old, "now": new} for name, (old, new) in found.figures.items()},
        "settings": list(found.settings), "changes": [{"what": what, "bytes": size} for what, size in found.parts],
    }  # fmt: skip
