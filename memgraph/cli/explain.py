"""`memgraph explain`: the text of an out-of-memory error."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import click

from memgraph.analyze.refusal_words import explain_refusal
from memgraph.cli.format import format_option
from memgraph.errors import UsageError
from memgraph.files.refusal_text import parse_refusal
from memgraph.render import table_refusal
from memgraph.small_file import end_of


@click.command(short_help="What an out-of-memory message says, and what to do.")
@click.argument("message", nargs=-1, metavar="[MESSAGE|FILE|-]...")
@format_option
def explain(message: tuple[str, ...], form: str) -> None:
    """Say what the numbers of an out-of-memory message mean, what they show, and what to try or record next.

    MESSAGE is its text, of any torch, with or without the traceback around it; or a file that holds it, or - for
    standard input.

    \b
    memgraph explain "CUDA out of memory. Tried to allocate 2.00 GiB (GPU 0; …"
    python train.py 2>&1 | memgraph explain -
    memgraph explain slurm-1234.out
    """
    said = parse_refusal(_text(message))
    found = explain_refusal(said)
    if form == "json":
        click.echo(json.dumps({"said": said._asdict(), "causes": found.causes, "next": found.steps}, indent=2))
    else:
        click.echo(table_refusal.report(found))


def _text(message: tuple[str, ...]) -> str:
    if not message or message == ("-",):
        text = sys.stdin.read()
    elif len(message) == 1 and len(message[0]) < 256 and Path(message[0]).is_file():
        text = end_of(message[0])
    elif len(message) == 1 and " " not in message[0]:
        raise UsageError(f"there is no file {message[0]}")
    else:
        text = " ".join(message)
    return text
