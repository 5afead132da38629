"""`transformers:DIR_OR_CONFIG.json`: a model of the transformers library from its configuration alone, without weights.

Nothing is fetched: the configuration is read from the file, the class is the library's own, the inputs are made.
"""

from __future__ import annotations

import functools
import importlib.util
import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from memgraph.errors import DAMAGED, MemgraphError, UsageError, unknown_name
from memgraph.models.settings import parse_value
from memgraph.models.tasks import TASKS
from memgraph.small_file import read_text

if TYPE_CHECKING:
    from memgraph.models.job import Job

PREFIX = "transformers:"
IMAGE_SIZE = "image_size"
"""A setting that every model with images takes: pixels a side of what it is given."""
_FOREIGN = "not one that memgraph knows the inputs of: write a factory and use --model package.module:factory"


def read_config(target: str) -> Any:
    """The configuration that `transformers:DIR_OR_CONFIG.json` names, as the library's own object.

    Raises:
        MemgraphError: transformers is not installed.
        UsageError: there is no such file, or it is not the configuration of a model that the library knows.
    """
    path = _config_path(Path(target.removeprefix(PREFIX)))
    try:
        values = json.loads(read_text(path))
    except (OSError, *DAMAGED) as error:
        raise UsageError(f"{path} cannot be read as JSON: {' '.join(str(error).split())}") from None
    kind = values.get("model_type") if isinstance(values, dict) else None
    if not isinstance(kind, str):
        raise UsageError(f"{path} names no model_type: it has to be the config.json of a transformers model")
    return _config_of(kind, values, path)


def _config_path(path: Path) -> Path:
    if path.is_dir():
        path = path / "config.json"
    if not path.is_file():
        raise UsageError(f"there is no {path}: name a folder with a config.json, or that file")
    return path


def _config_of(kind: str, values: dict[str, Any], path: Path) -> Any:
    if importlib.util.find_spec("transformers") is None:
        raise MemgraphError(f"{PREFIX}{path} needs the transformers library: pip install 'memgraph[transformers]'")
    from transformers import CONFIG_MAPPING

    if kind not in CONFIG_MAPPING:
        raise unknown_name(f"model_type in {path}", kind, CONFIG_MAPPING.keys())
    try:
        return CONFIG_MAPPING[kind].from_dict(values)
    except Exception as error:  # the library's own checks, of many kinds
        raise UsageError(f"{path} is no configuration of {kind}: {' '.join(str(error).split())}") from error


def find_class(config: Any, task: str | None) -> tuple[type[Any], str]:
    """The class to train, and its task: as asked for, or as the configuration's `architectures` say, or the first task
    that the library has a class for.

    Raises:
        UsageError: the library has no class of this model for the task, or for any.
    """
    import transformers

    offered = {name: found for name in TASKS if (found := _class_for(config.model_type, name))}
    if task is not None:
        if task not in offered:
            raise UsageError(f"transformers has no {config.model_type} for {task}: {_choice(offered)}")
        return getattr(transformers, offered[task]), task
    for named in config.architectures or ():
        for name, found in offered.items():
            if named == found:
                return getattr(transformers, named), name
        if not hasattr(transformers, named):
            raise UsageError(f"transformers has no class {named}, which the configuration names: {_choice(offered)}")
    if not offered:
        raise UsageError(f"{config.model_type} is {_FOREIGN}")
    first = next(name for name in (*_preferred(config), *offered) if name in offered)
    return getattr(transformers, offered[first]), first


def _preferred(config: Any) -> tuple[str, ...]:
    """Tasks that come before others: half of a model often has a class of its own, such as Bart's decoder."""
    if config.is_encoder_decoder:
        return ("image-text-to-text", "speech-seq2seq", "seq2seq-lm")
    return () if getattr(config, "is_decoder", False) else ("image-text-to-text", "masked-lm")


def _class_for(kind: str, task: str) -> str | None:
    from transformers.models.auto import modeling_auto

    found = getattr(modeling_auto, TASKS[task].mapping).get(kind)
    return found[0] if isinstance(found, (list, tuple)) else found


def _choice(offered: Mapping[str, str]) -> str:
    return f"use --task {' or '.join(offered)}" if offered else "write a factory of your own"


def default_length(config: Any, task: str | None) -> int | None:
    """Tokens a sample where the user does not say: 512, or what the model can take; None if it reads no text."""
    _, name = find_class(config, task)
    if "text" not in TASKS[name].reads:
        return None
    longest = getattr(config.get_text_config(), "max_position_embeddings", None)
    return min(512, longest) if isinstance(longest, int) and longest > 0 else 512


def build_job(
    target: str, task: str | None, default_batch: int, settings: Mapping[str, str], batch: int | None = None,
    seq: int | None = None,
) -> Job:  # fmt: skip
    """Training the model for a task, with `batch` samples a step.

    Args:
        settings: fields of the configuration, those of its parts with a dot: `text_config.num_hidden_layers=2`; and
            `image_size`, pixels a side.

    Raises:
        UsageError: there is no such configuration, task, class or field.
    """
    from memgraph.models.factory import split_loss
    from memgraph.models.job import Job
    from memgraph.models.made_inputs import Sizes, make_batch

    config = read_config(target)
    kind, name = find_class(config, task)
    given = dict(settings)
    side = given.pop(IMAGE_SIZE, None)
    for field, text in given.items():
        set_field(config, field, text)
    sizes = Sizes(
        default_batch if batch is None else batch, default_length(config, name) if seq is None else seq,
        None if side is None else parse_value(IMAGE_SIZE, side, int),
    )  # fmt: skip
    if name == "sequence-classification" and config.get_text_config().pad_token_id is None:
        config.get_text_config().pad_token_id = 0  # these classes look for the last token that is no padding
    made = functools.partial(make_batch, kind, config, TASKS[name], sizes)
    facts = {"model": target, "task": name, "batch": sizes.batch, "seq": sizes.length, "set": dict(settings)}
    return Job(lambda: kind(config), made, lambda model, values: split_loss(target, model(**values)), facts)


def set_field(config: Any, field: str, text: str) -> None:
    """A field of the configuration, of the type that it has already.

    Raises:
        UsageError: no such field, or a value of another type.
    """
    *parts, name = field.split(".")
    owner = functools.reduce(lambda part, inner: getattr(part, inner, None), parts, config)
    fields = owner.to_dict() if hasattr(owner, "to_dict") else {}
    if name not in fields and not hasattr(owner, name):
        raise unknown_name(f"field of {config.model_type}", field, [".".join([*parts, known]) for known in fields])
    present = getattr(owner, name)
    setattr(owner, name, parse_value(field, text, type(present) if present is not None else str))
