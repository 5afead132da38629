"""`memgraph gpus`: the catalogue."""

from __future__ import annotations

import dataclasses
import json

import click

from memgraph.cli.format import format_option
from memgraph.gpu.specs import all_gpus
from memgraph.render import table


@click.command(short_help="The GPUs that are known.")
@click.option("--describe", is_flag=True, help="Print the card of this machine, for --gpu FILE.json elsewhere.")
@format_option
def gpus(describe: bool, form: str) -> None:
    """The GPUs that --gpu knows, with what they leave for PyTorch.

    A memory with ~ is that of a similar card. The figures of a machine's own card are better: run
    `memgraph gpus --describe > my-card.json` on it, and give --gpu my-card.json anywhere; what `nvidia-smi -q`
    prints will do too, for a card that is listed.

    "for PyTorch" is the card's memory less the CUDA context, which was measured on the H200 and is an estimate
    elsewhere.
    """
    if describe:
        from memgraph.api import describe_gpu

        click.echo(describe_gpu())
        return
    cards = all_gpus()
    if form == "json":
        click.echo(json.dumps([dataclasses.asdict(card) | {"context": card.context} for card in cards], indent=2))
    else:
        click.echo(table.gpus(cards))
