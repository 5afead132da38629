"""`memgraph gpus`: the catalogue."""

from __future__ import annotations

import dataclasses
import json

import click

from memgraph.cli.format import format_option
from memgraph.gpu.specs import all_gpus
from memgraph.render import table


@click.command(short_help="The GPUs that are known.")
@format_option
def gpus(form: str) -> None:
    """The GPUs that --gpu knows, with what they leave for PyTorch.

    "for PyTorch" is the card's memory less the CUDA context, which was measured on the H200 and is an estimate
    elsewhere.
    """
    cards = all_gpus()
    if form == "json":
        click.echo(json.dumps([dataclasses.asdict(card) | {"context": card.context} for card in cards], indent=2))
    else:
        click.echo(table.gpus(cards))
