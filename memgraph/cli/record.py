"""`memgraph record`: the same run on a real GPU, every allocation written down."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click

from memgraph.cli.run import end
from memgraph.cli.target import RUN_NAMES, RUN_OPTIONS, to_options
from memgraph.ended import Ended
from memgraph.errors import DoesNotFit, MemgraphError, UsageError
from memgraph.trace import Trace
from memgraph.trace_file import check_free
from memgraph.units import format_bytes, parse_bytes

VIA = ("history", "hook", "both")


def _run_options(command: Any) -> Any:
    for option in reversed(RUN_OPTIONS):
        command = option(command)
    return command


@click.command(
    short_help="Run it on a real GPU, and write down every allocation.",
    context_settings={"allow_interspersed_args": False},
)
@_run_options
@click.option("-o", "--output", required=True, type=click.Path(path_type=Path, dir_okay=False), help="Save it here.")
@click.option("--via", type=click.Choice(VIA), default="history", show_default=True,
              help="torch's memory history, the allocator hook, or one after the other.")  # fmt: skip
@click.option("--cap", metavar="SIZE", help="Make the card as small as this: 24GiB.")
@click.option("--ops", is_flag=True, help="Note which op of which module ran; needs the hook.")
@click.option("-m", "module", is_flag=True, help="SCRIPT is a module's name, as for python -m.")
@click.option("--force", is_flag=True, help="Overwrite the file.")
@click.argument("script", required=False)
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED)
def record(
    output: Path, via: str, cap: str | None, ops: bool, module: bool, force: bool, script: str | None,
    arguments: tuple[str, ...], **chosen: Any,
) -> None:  # fmt: skip
    """Run a training step, or a script, on the GPU that is there, and write down every allocation.

    torch's memory history knows what was allocated and reserved. The hook is an allocator of memgraph's own that logs
    what is asked of it, and can say by which op. `both` runs twice, holds one against the other and keeps the history.

    \b
    memgraph record --batch 8 --seq 512 -o real.memgraph
    memgraph record --via hook --cap 24GiB -o real.memgraph train.py --epochs 1
    memgraph check predicted.memgraph real.memgraph
    """
    check_free(output, force=force)
    size = parse_bytes(cap) if cap is not None else None
    if script is None and module:
        raise UsageError("-m is for a script: name the module")
    first = "history" if via == "both" else via
    trace, how = _recorded(first, size, ops and via != "both", module, script, arguments, chosen)
    if via == "both":
        trace = _with_hook(trace)
    trace.save(output, force=force)
    click.echo(_summary(trace), err=True)
    if how is not None:
        end(how)
    if not trace.fits:
        raise DoesNotFit(f"out of memory; what was recorded until then is in {output}")


def _recorded(
    via: str, cap: int | None, ops: bool, module: bool, script: str | None, arguments: Sequence[str],
    chosen: dict[str, Any],
) -> tuple[Trace, Ended | None]:  # fmt: skip
    if script is None:
        options = to_options({name: chosen[name] for name in RUN_NAMES})
        from memgraph.api import record_steps

        return record_steps(options, via, cap=cap, ops=ops), None
    from memgraph.api import record_script

    context = click.get_current_context()
    given = context.get_parameter_source("steps") is click.core.ParameterSource.COMMANDLINE
    steps = chosen["steps"] if given else None
    return record_script(script, arguments, via, module=module, steps=steps, cap=cap, ops=ops)


def _with_hook(trace: Trace) -> Trace:
    """The same command again in a process of its own, through the hook: the allocator cannot be changed in this one."""
    from memgraph.analyze.join import joined
    from memgraph.trace_file import load

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "hook.memgraph"
        command = [sys.executable, "-m", "memgraph", *_again(path)]
        done = subprocess.run(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, check=False)
        if not path.exists():
            raise MemgraphError(
                f"the run through the hook failed: {(done.stderr.strip() or 'no reason').splitlines()[-1]}"
            )
        return joined(trace, load(path))


def _again(path: Path) -> list[str]:
    """This command's arguments for the hook and another file."""
    arguments = sys.argv[sys.argv.index("record") :]
    for names in (("-o", "--output"), ("--via",)):
        for name in names:
            if name in arguments:
                place = arguments.index(name)
                del arguments[place : place + 2]
    own = [text for text in arguments if not text.startswith(("--output=", "--via=", "-o="))]
    return ["record", "--via", "hook", "-o", str(path), *own[1:]]


def _summary(trace: Trace) -> str:
    peak = trace.peak
    return (
        f"{len(trace.buffers):,} allocations on {trace.gpu}; peak {format_bytes(peak.requested)} requested, "
        f"{format_bytes(peak.allocated)} allocated, {format_bytes(peak.reserved)} reserved"
    )
