"""What a command prints: a table for people, JSON for programs."""

from __future__ import annotations

import click

format_option = click.option(
    "--format", "form", type=click.Choice(["table", "json"]), default="table", show_default=True, help="Of the report."
)
