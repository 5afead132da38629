"""`memgraph record`: the same run on a real GPU, every allocation written down."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import click

from memgraph import children
from memgraph.capture.ended import Ended
from memgraph.cli.run import end
from memgraph.cli.target import MESH_NAMES, RUN_NAMES, RUN_OPTIONS, given, to_options
from memgraph.errors import DoesNotFit, MemgraphError, UsageError
from memgraph.temporary import temporary_folder
from memgraph.trace import Trace
from memgraph.trace.output_file import check_free
from memgraph.units import format_bytes, parse_bytes

VIA = ("history", "hook", "both")
_ALSO_FOR_SCRIPTS = ("steps", "alloc_conf")


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
@click.option("--times", type=click.Path(path_type=Path, dir_okay=False),
              help="Time each op of one more step, for `memgraph checkpoint --times`.")  # fmt: skip
@click.option("--ops", is_flag=True, help="Note which op of which module ran; needs the hook.")
@click.option("-m", "module", is_flag=True, help="SCRIPT is a module's name, as for python -m.")
@click.option("--force", is_flag=True, help="Overwrite the file.")
@click.argument("script", required=False)
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED)
def record(
    output: Path, via: str, cap: str | None, times: Path | None, ops: bool, module: bool, force: bool,
    script: str | None, arguments: tuple[str, ...], **chosen: Any,
) -> None:  # fmt: skip
    """Run a training step, or a script, on the GPU that is there, and write down every allocation.

    torch's memory history knows what was allocated and reserved. The hook is an allocator of memgraph's own that logs
    what is asked of it, and can say by which op. `both` runs twice, holds one against the other and keeps the history.

    \b
    memgraph record --batch 8 --seq 512 -o real.memgraph
    memgraph record --via hook --cap 24GiB -o real.memgraph train.py --epochs 1
    memgraph record --batch 8 -o real.memgraph --times times.json
    memgraph check predicted.memgraph real.memgraph

    A run that fails or is interrupted is written as far as it came. While the hook records, its log lies beside the
    output as OUTPUT.log; a process that is killed leaves it there, and it can be read in the place of a trace.
    """
    for path in filter(None, (output, times)):
        check_free(path, force=force)
    log = output.with_name(f"{output.name}.log")
    check_free(log, force=force)
    size = parse_bytes(cap) if cap is not None else None
    _refuse_what_means_nothing(script, module, via, ops)
    _refuse_times(times, output, script, chosen["compile"])
    if chosen["alloc_conf"] is not None:
        os.environ["PYTORCH_CUDA_ALLOC_CONF"] = chosen["alloc_conf"]
    with _hook_first(via) as hook:
        own = "hook" if via == "hook" else "history"
        trace, how = _recorded(own, size, ops and own == "hook", log, module, script, arguments, chosen)
        if hook is not None:
            trace = _joined(trace, hook)
    trace.save(output, force=force)
    log.unlink(missing_ok=True)
    click.echo(_summary(trace), err=True)
    if times is not None and trace.fits and how == Ended(0):
        _time(times, force, chosen)
    _end(trace, how, output)


def _refuse_times(times: Path | None, output: Path, script: str | None, compiled: str) -> None:
    """Raises:
    UsageError: times are wanted where there are none.
    """
    if times is None:
        return
    if times == output:
        raise UsageError("--times and --output name the same file: choose another name")
    if script is not None:
        raise UsageError(f"--times needs a step that can run once more, and {script} is a script: leave it out")
    if compiled != "none":
        raise UsageError("--times are those of ATen's ops, and a compiled step has kernels of its own: leave it out")


def _time(path: Path, force: bool, chosen: dict[str, Any]) -> None:
    """After all that is recorded: the profiler slows what comes after it."""
    from memgraph.api import record_times

    found = record_times(to_options({name: chosen[name] for name in RUN_NAMES}))
    found.save(path, force=force)
    calls = sum(row.calls for row in found.rows)
    click.echo(
        f"{calls:,} calls timed on {found.gpu}, told apart by op and shapes: {len(found.rows):,} rows in {path}",
        err=True,
    )


def _refuse_what_means_nothing(script: str | None, module: bool, via: str, ops: bool) -> None:
    """Raises:
    UsageError: an option was given that would have no effect.
    """
    flags = given(RUN_NAMES)
    if script is None and module:
        raise UsageError("-m is for a script: name the module")
    if ops and via == "history":
        raise UsageError("torch's history knows no ops: --ops needs --via hook or --via both")
    for name, flag in flags.items():
        if name in MESH_NAMES:
            raise UsageError(f"{flag} is for ranks that are not there: record the script itself, under torchrun")
        if name in ("gpu", "memory"):
            raise UsageError(f"{flag} is for a GPU that is not there; --cap makes the one that is there smaller")
        if script is not None and name not in _ALSO_FOR_SCRIPTS:
            raise UsageError(
                f"{flag} describes a run of memgraph's own, and {script} is a script: give it to the script"
            )


def _recorded(
    via: str, cap: int | None, ops: bool, log: Path, module: bool, script: str | None, arguments: Sequence[str],
    chosen: dict[str, Any],
) -> tuple[Trace, Ended]:  # fmt: skip
    if script is None:
        options = to_options({name: chosen[name] for name in RUN_NAMES})
        from memgraph.api import record_steps

        return record_steps(options, via, cap=cap, ops=ops, log=log)
    from memgraph.api import record_script

    steps = chosen["steps"] if given(["steps"]) else None
    return record_script(script, arguments, via, module=module, steps=steps, cap=cap, ops=ops, log=log)


@contextlib.contextmanager
def _hook_first(via: str) -> Iterator[Path | None]:
    """For `both` the same command through the hook, in a process of its own, before this one takes any of the GPU.
    Where its trace is."""
    if via != "both":
        yield None
        return
    with temporary_folder() as folder:
        path = folder / "hook.memgraph"
        command = [sys.executable, "-m", "memgraph", *_again(path)]
        done = children.run(command, stdout=subprocess.DEVNULL)
        if not path.exists():
            reason = (
                (done.stderr.decode(errors="replace").strip() or "no reason given")
                .splitlines()[-1]
                .removeprefix("memgraph: ")
            )
            raise MemgraphError(reason if "no GPU" in reason else f"the run through the hook failed: {reason}")
        yield path


def _again(path: Path) -> list[str]:
    """This command for the hook and another file."""
    context = click.get_current_context()
    words = ["record", "--via", "hook", "-o", str(path)]
    for parameter in context.command.params:
        value = context.params.get(parameter.name or "")
        if not isinstance(parameter, click.Option) or parameter.name in ("via", "output", "force", "times"):
            continue
        if parameter.name not in given([parameter.name or ""]):
            continue
        words += [parameter.opts[0]] if parameter.is_flag else _valued(parameter, value)
    script = context.params["script"]
    return words if script is None else [*words, "--", script, *context.params["arguments"]]


def _valued(parameter: click.Option, value: Any) -> list[str]:
    values = value if parameter.multiple else [value]
    return [f"{parameter.opts[0]}={one}" for one in values]


def _joined(trace: Trace, hook: Path) -> Trace:
    from memgraph.analyze.join import joined
    from memgraph.trace.trace_file import load

    return joined(trace, load(hook))


def _end(trace: Trace, how: Ended, output: Path) -> None:
    if not trace.fits and type(how.error).__name__ in ("NoneType", "OutOfMemoryError") and how.code in (0, 1):
        raise DoesNotFit(f"out of memory; what was recorded until then is in {output}")
    end(how)


def _summary(trace: Trace) -> str:
    peak = trace.peak
    return (
        f"{len(trace.buffers):,} allocations on {trace.gpu}; peak {format_bytes(peak.requested)} requested, "
        f"{format_bytes(peak.allocated)} allocated, {format_bytes(peak.reserved)} reserved"
    )
