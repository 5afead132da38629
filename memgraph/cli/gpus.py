"""`memgraph gpus`: the catalogue."""

from __future__ import annotations

import dataclasses
import json

import click

from memgraph.gpu.specs import all_gpus
from memgraph.render import table


@click.command(short_help="The GPUs that are known.")
@click.option(
    "--format", "form", type=click.Choice(["table", "json"]), default="table", show_default=True, help="Of the list."
)
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
