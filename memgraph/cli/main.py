"""The group of commands, and the one place where errors become lines and exit codes."""

from __future__ import annotations

import contextlib
import functools
import importlib
import os
import sys
from collections.abc import Callable
from typing import Any, TextIO

import click

from memgraph import __version__
from memgraph.cli.streams import streams_are_there
from memgraph.errors import MemgraphError, shortened, unknown_name
from memgraph.render.words import shown

INTERRUPTED = 130
"""As a shell reports a process that Ctrl-C ended."""


_COMMANDS = {
    "analyze": "Predict one training step: where the memory goes.",
    "diff": "Why two configurations or two traces differ.",
    "fit": "Which batch and length fit which GPU.",
    "advise": "The ways to make it fit, each with its effect.",
    "checkpoint": "Which layers to checkpoint for a budget.",
    "timeline": "Draw it: a picture, a page, or a file for other viewers.",
    "record": "Run it on a real GPU, and write down every allocation.",
    "check": "A prediction against a recording, allocation by allocation.",
    "monitor": "Has this configuration's memory moved since the baseline.",
    "run": "Run a training script, unmodified, on a virtual GPU.",
    "explain": "What an out-of-memory message says, and what to do.",
    "gpus": "The GPUs that memgraph knows.",
}
"""Each lives in the module of its name, which is imported when it is called."""


class _Commands(click.Group):
    """A group whose errors are one line on stderr: `memgraph: what is wrong, and the next step`."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(_COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in _COMMANDS:
            return None
        command = getattr(importlib.import_module(f"memgraph.cli.{cmd_name}"), cmd_name)
        return command if isinstance(command, click.Command) else None

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        if args and not args[0].startswith("-") and args[0] not in _COMMANDS:
            raise unknown_name("command", args[0], _COMMANDS)
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl(list(_COMMANDS.items()))

    def main(self, *args: Any, standalone_mode: bool = True, **extra: Any) -> Any:
        run = functools.partial(super().main, *args, **extra)
        if not standalone_mode:
            return run(standalone_mode=False)
        sys.exit(_exit_code(lambda: run(standalone_mode=False)))


def _exit_code(run: Callable[[], Any]) -> int:
    streams_are_there()
    try:
        code = run()
        streams_are_there()
        sys.stdout.flush()  # a reader that went away is noticed here and not at the interpreter's end
        return code if isinstance(code, int) else 0
    except click.exceptions.NoArgsIsHelpError as error:
        click.echo(error.format_message())
        return error.exit_code
    except click.MissingParameter as error:
        asked = error.ctx.command_path if error.ctx else "memgraph"
        return _say(f"{error.format_message().rstrip('.')}: see `{asked} --help`", error.exit_code)
    except click.ClickException as error:
        return _say(error.format_message(), error.exit_code)
    except MemgraphError as error:
        return _say(str(error), error.exit_code)
    except (click.Abort, KeyboardInterrupt):
        return _say("interrupted", INTERRUPTED)
    except BrokenPipeError:
        _forget(sys.stdout)
        return 0
    except OSError as error:  # whoever else uses files says so in words of its own
        _forget(sys.stdout)
        return _say(f"cannot write the answer: {error.strerror or error}", 1)
    except ImportError as error:
        if (error.name or "").partition(".")[0] != "torch":
            raise
        return _say(f"this torch is not as those that memgraph supports, 2.11 to 2.15: {error}", 1)
    except MemoryError:
        return _say("this machine has not the memory for that: ask for less, or read a smaller file", 1)
    except SystemExit as ended:  # click ends so, with 1, when the reader of its output went away
        return 0 if type(sys.stdout).__name__.endswith("PacifyFlushWrapper") else int(ended.code or 0)


def _say(message: str, code: int) -> int:
    for word in sys.argv:
        for value in filter(None, (word, word.partition("=")[2])):
            message = message.replace(value, shortened(value))
    try:
        click.echo(f"memgraph: {shown(' '.join(message.split()))}", err=True)
    except OSError:  # nobody reads it
        _forget(sys.stderr)
    return code


def _forget(stream: TextIO) -> None:
    """Let the interpreter flush what nobody reads any more into nothing: where it cannot, it ends with 120."""
    with contextlib.suppress(OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


@click.group(
    name="memgraph", cls=_Commands, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 80}
)
@click.version_option(__version__, prog_name="memgraph")
def main() -> None:
    """See your GPU memory before you have the GPU.

    Runs a PyTorch training step on a CUDA device that is not there, and says where the memory goes.

    \b
    Exit codes: 0 done; 1 an error; 2 wrong usage; 3 it does not fit;
    4 a check is outside its tolerance; 130 interrupted.
    """
