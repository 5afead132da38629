"""Names of models: presets, `package.module:factory`, `transformers:CONFIG`. Importing this does not import torch."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Protocol

from memgraph.errors import UsageError, unknown_name
from memgraph.models.from_config import PREFIX, build_job, default_length, read_config
from memgraph.models.nanovlm_config import PRESETS, NanoVLMConfig
from memgraph.models.settings import apply_settings

if TYPE_CHECKING:
    from memgraph.models.job import Job, OwnStep

DEFAULT_BATCH = 8
"""Samples a step where the user does not say."""


class Builder(Protocol):
    """Turns what the user chose into something to run."""

    def __call__(self, settings: Mapping[str, str], batch: int | None = None, seq: int | None = None) -> Job | OwnStep:
        """See `ModelEntry.build`."""


@dataclass(frozen=True)
class ModelEntry:
    """A model that can be asked for by name."""

    name: str
    default_seq: int | None
    """Sequence length where the user does not say; None if that is the factory's own affair."""
    build: Builder
    """`build({"vit_img_size": "256"}, batch=8, seq=512)`: settings as text; None for a size that the user did not give.
    A preset builds nothing yet and can be asked anywhere. A factory is called at once, so call this inside the device
    or fake mode that its model is to be built under. Raises UsageError."""


def resolve(name: str, task: str | None = None) -> ModelEntry:
    """The model called `name`: a preset such as `nanovlm-222m`, `transformers:DIR_OR_CONFIG.json`, or
    `package.module:factory`.

    Args:
        task: what a transformers model is trained for; None for what its configuration says.

    Raises:
        UsageError: there is no such preset, and the closest names are given; no such configuration; a task for a model
            that has none to choose from.
        MemgraphError: transformers is needed and not installed.
    """
    if name.startswith(PREFIX):
        config = read_config(name)
        build = functools.partial(build_job, name, task, DEFAULT_BATCH)
        return ModelEntry(name, default_length(config, task), build)
    if task is not None:
        raise UsageError(f"--task is for --model {PREFIX}DIR_OR_CONFIG.json: {name} has no tasks to choose from")
    if ":" in name:
        return ModelEntry(name, None, functools.partial(_build_own, name))
    if name not in PRESETS:
        raise unknown_name("model", name, PRESETS)
    config = PRESETS[name]
    return ModelEntry(name, config.lm_max_length, functools.partial(_build_nanovlm, name, config))


def _build_nanovlm(
    name: str, preset: NanoVLMConfig, settings: Mapping[str, str], batch: int | None = None, seq: int | None = None
) -> Job:
    from memgraph.models.nanovlm import make_job

    config = apply_settings(preset, settings)
    if seq is not None:
        if "lm_max_length" in settings and config.lm_max_length != seq:
            raise UsageError(f"seq {seq} contradicts lm_max_length={config.lm_max_length}: give one of them")
        config = replace(config, lm_max_length=seq)
    return make_job(name, config, DEFAULT_BATCH if batch is None else batch)


def _build_own(
    target: str, settings: Mapping[str, str], batch: int | None = None, seq: int | None = None
) -> Job | OwnStep:
    from memgraph.models.factory import run_factory

    return run_factory(target, settings, batch, seq)
