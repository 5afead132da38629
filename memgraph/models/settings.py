"""`--set field=value`: text into the fields of a frozen dataclass. No torch."""

from __future__ import annotations

import dataclasses
import types
import typing
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, TypeVar

from memgraph.errors import UsageError, unknown_name

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

    Config = TypeVar("Config", bound=DataclassInstance)

_BOOLEANS = {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False}


def apply_settings(config: Config, settings: Mapping[str, str]) -> Config:
    """A copy of `config` with fields replaced: `apply_settings(config, {"vit_img_size": "256"})`.

    Raises:
        UsageError: a field that does not exist, or a value that is not of the field's type.
    """
    hints = typing.get_type_hints(type(config))
    fields = {field.name: hints[field.name] for field in dataclasses.fields(config)}
    for name in settings:
        if name not in fields:
            raise unknown_name("setting", name, fields)
    values = {name: parse_value(name, text, fields[name]) for name, text in settings.items()}
    return dataclasses.replace(config, **values)


def parse_value(name: str, text: str, kind: Any) -> Any:
    """`text` as a value of the type `kind`: int, float, bool, str, a Literal of strings, or one of these or None.

    Raises:
        UsageError: it is not one.
    """
    origin, choices = typing.get_origin(kind), typing.get_args(kind)
    if origin in (typing.Union, types.UnionType):
        return _parse_optional(name, text, choices)
    if origin is typing.Literal:
        return _one_of(name, text, choices)
    if kind is bool:
        return _parse_boolean(name, text)
    return _parse_plain(name, text, kind)


def _parse_optional(name: str, text: str, choices: tuple[Any, ...]) -> Any:
    if text.lower() == "none" and type(None) in choices:
        return None
    return parse_value(name, text, next(choice for choice in choices if choice is not type(None)))


def _one_of(name: str, text: str, choices: tuple[Any, ...]) -> str:
    if text in choices:
        return text
    raise unknown_name(f"value of {name}", text, choices)


def _parse_boolean(name: str, text: str) -> bool:
    try:
        return _BOOLEANS[text.lower()]
    except KeyError:
        raise UsageError(f"{name}={text} is neither true nor false: write {name}=true or {name}=false") from None


def _parse_plain(name: str, text: str, kind: Any) -> Any:
    if kind not in (int, float, str):
        raise UsageError(f"{name} cannot be set from text")
    try:
        return kind(text)
    except ValueError:
        wanted = "a whole number: write it like 512" if kind is int else "a number: write it like 0.1"
        raise UsageError(f"{name}={text} is not {wanted}") from None
