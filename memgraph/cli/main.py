"""The group of commands, and the one place where errors become lines and exit codes."""

from __future__ import annotations

import contextlib
import difflib
import os
import sys
from typing import Any, NoReturn

import click

from memgraph import __version__
from memgraph.cli.analyze import analyze
from memgraph.cli.gpus import gpus
from memgraph.errors import MemgraphError

INTERRUPTED = 130


class _Group(click.Group):
    def resolve_command(self, context: click.Context, args: list[str]) -> Any:
        """With a suggestion for a mistyped command."""
        try:
            return super().resolve_command(context, args)
        except click.UsageError as error:
            close = difflib.get_close_matches(args[0], self.commands, n=1)
            if close:
                error.message += f" Did you mean {close[0]}?"
            raise


@click.group(cls=_Group, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 80})
@click.version_option(__version__, prog_name="memgraph")
def cli() -> None:
    """See your GPU memory before you have the GPU.

    Runs a PyTorch training step on a CUDA device that is not there, and says where the memory goes.

    \b
    Exit codes: 0 done; 1 an error; 2 wrong usage; 3 it does not fit.
    """


cli.add_command(analyze)
cli.add_command(gpus)


def main() -> NoReturn:
    """Run the command line; never returns."""
    try:
        cli.main(standalone_mode=False)
    except click.exceptions.Exit as done:
        sys.exit(done.exit_code)
    except click.Abort:
        _stop("interrupted; nothing was written", INTERRUPTED)
    except click.ClickException as error:
        _stop(error.format_message().replace("\n", " "), error.exit_code)
    except MemgraphError as error:
        _stop(str(error).replace("\n", " "), error.exit_code)
    except KeyboardInterrupt:
        _stop("interrupted; nothing was written", INTERRUPTED)
    except BrokenPipeError:
        with contextlib.suppress(OSError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(0)
    sys.exit(0)


def _stop(message: str, code: int) -> NoReturn:
    click.echo(f"memgraph: {message}", err=True)
    sys.exit(code)
