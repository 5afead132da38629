"""Numbers on the command line."""

from __future__ import annotations

import math

import click


def a_number(_context: click.Context, _parameter: click.Parameter, value: float) -> float:
    """click takes `nan` for a number in any range."""
    if math.isnan(value):
        raise click.BadParameter(f"{value} is not a number")
    return value
