"""Options of a run where some may be lists: `--seq 128,512`."""

from __future__ import annotations

import functools
from collections.abc import Callable, Collection
from typing import Any

import click

from memgraph.cli.target import RUN_NAMES, RUN_OPTIONS, Command, to_options
from memgraph.errors import UsageError
from memgraph.options import Options

Chosen = dict[str, list[Any]]
"""Each option's values: one, or as many as were given."""

_NEVER = ("alloc_conf", "freeze", "mesh")
"""Options whose value has commas of its own."""


def run_options(listed: Collection[str] = RUN_NAMES) -> Callable[[Command], Command]:
    """Give a command the options of a run; it is called with `chosen`.

    Args:
        listed: the options that may be lists.
    """
    names = set(listed) - set(_NEVER)

    def decorate(command: Command) -> Command:
        @functools.wraps(command)
        def with_options(**values: Any) -> Any:
            return command(chosen={name: values.pop(name) for name in RUN_NAMES}, **values)

        wrapped: Any = with_options
        for option in reversed(RUN_OPTIONS):
            wrapped = option(wrapped)
        for parameter in wrapped.__click_params__:
            if parameter.name in names and not parameter.multiple:
                parameter.type, parameter.callback = _List(parameter.type), _single
            elif parameter.name in RUN_NAMES and parameter.name != "settings":
                parameter.callback = _single
        return with_options

    return decorate


class _List(click.ParamType):  # type: ignore[type-arg]  # generic in click's types only, and not in every version
    """Values of another type, separated by commas."""

    name = "list"

    def __init__(self, item: Any) -> None:
        self.item = item
        self.name = item.name

    def get_metavar(self, param: click.Parameter, ctx: click.Context | None = None) -> str:
        """As help prints it: `INTEGER[,…]`."""
        return f"{self.item.name.upper()}[,…]"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> list[Any]:
        """`"128,512"` to `[128, 512]`."""
        texts = value.split(",") if isinstance(value, str) else [value]
        if not all(str(text).strip() for text in texts):
            self.fail(f"{value!r} has an empty place: write values with a comma between them", param, ctx)
        return [self.item.convert(text.strip() if isinstance(text, str) else text, param, ctx) for text in texts]


def _single(_context: click.Context, _parameter: click.Parameter, value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]


def given(names: Collection[str] = RUN_NAMES) -> list[str]:
    """The options of a run that stand on the command line."""
    context = click.get_current_context()
    return [name for name in names if context.get_parameter_source(name) is click.core.ParameterSource.COMMANDLINE]


def one(chosen: Chosen, **instead: Any) -> Options:
    """The options with the first value of each, or the one given instead.

    Raises:
        UsageError: one of them is wrong.
    """
    return to_options({name: values[0] for name, values in chosen.items() if name != "settings"} | {
        "settings": chosen["settings"]} | instead)  # fmt: skip


def pair(chosen: Chosen) -> tuple[Options, Options]:
    """Both sides, where options have two values each.

    Raises:
        UsageError: none has two, or one has more.
    """
    fields = [text.partition("=") for text in chosen["settings"]]
    values = {**chosen, **{f"--set {name}": value.split(",") for name, _, value in fields}}
    for name, found in values.items():
        if name != "settings" and len(found) > 2:
            raise UsageError(f"{name} has {len(found)} values: a difference is between two")
    sides = []
    for side in (0, 1):
        settings = [f"{name}={_at(value.split(','), side)}" if equals else name for name, equals, value in fields]
        sides.append(to_options({name: _at(found, side) for name, found in chosen.items() if name != "settings"} | {
            "settings": settings}))  # fmt: skip
    if sides[0] == sides[1]:
        raise UsageError("nothing differs: give an option two values, like --seq 128,512, or two trace files")
    return sides[0], sides[1]


def _at(values: list[Any], side: int) -> Any:
    return values[min(side, len(values) - 1)]
