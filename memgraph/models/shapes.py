"""What a model of transformers is like, from its configuration: enough to say how it could be spread. Built without
storage."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from memgraph.mesh import TP_STYLES
from memgraph.models.from_config import PREFIX, find_class, read_config, set_field
from memgraph.models.parts import own_words

DIVIDED = ("num_attention_heads", "num_key_value_heads", "intermediate_size")
"""Fields of a configuration: what tensor parallel divides."""


class Shape(NamedTuple):
    """A model before it is spread."""

    parameters: int
    """Numbers in all."""
    divided: tuple[int, ...]
    """What tensor parallel divides: heads, key-value heads, features of the MLP. Empty without a plan that torch or
    transformers can follow."""
    layers: int
    """What a pipeline divides; 0 without a plan."""
    words: int
    """Of the vocabulary; 0 without one."""
    sequence: bool
    """Whether context parallel may cut its samples: a causal language model."""


def shape_of(target: str, task: str | None, settings: Mapping[str, str]) -> Shape | None:
    """None for a preset and a factory, which have no plans.

    Raises:
        UsageError: there is no such configuration, task or field.
    """
    if not target.startswith(PREFIX):
        return None
    import torch

    config = read_config(target)
    kind, name = find_class(config, task)
    for field, text in settings.items():
        set_field(config, field, text)
    with torch.device("meta"):
        model = kind(config)
    parts = config.get_text_config()
    heads = [getattr(parts, field, None) for field in DIVIDED]
    layers = getattr(parts, "num_hidden_layers", 0) if getattr(model, "_pp_plan", None) else 0
    return Shape(
        sum(parameter.numel() for parameter in model.parameters()),
        tuple(count for count in heads if isinstance(count, int)) if _cuts(model) else (),
        layers if name == "causal-lm" else 0,
        int(getattr(parts, "vocab_size", 0)),
        name == "causal-lm",
    )


def _cuts(model: object) -> bool:
    """Whether it has a plan all of whose words torch or transformers has a style for."""
    words = set((getattr(model, "_tp_plan", None) or {}).values())
    return bool(words) and (words <= set(TP_STYLES) or words <= own_words())
