"""Keys and values that a model of transformers keeps for tokens to come: in training there are none."""

from __future__ import annotations

import functools
from collections.abc import Callable

from torch import nn

Undo = Callable[[], None]


def keep_none(model: nn.Module) -> list[Undo]:
    """Have no configuration of the model ask for a cache, as transformers itself has it where it checkpoints: layers
    that are computed again would find their own keys in it. Returns what undoes it."""
    undos: list[Undo] = []
    for module in model.modules():
        config = getattr(module, "config", None)
        for part in (config, getattr(config, "text_config", None), getattr(config, "decoder", None)):
            if getattr(part, "use_cache", False) is True:
                undos.append(functools.partial(setattr, part, "use_cache", True))
                part.use_cache = False  # type: ignore[union-attr]
    return undos
