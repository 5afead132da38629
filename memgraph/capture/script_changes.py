"""Changes that can be made to a script without its help: its optimizers' form, gradients, caches, checkpoints."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import nn
from torch.optim.optimizer import Optimizer

from memgraph.capture.session import VirtualGpu
from memgraph.capture.step import checkpoint_blocks
from memgraph.models.caches import keep_none
from memgraph.virtual.patches import replaced

Change = Callable[[VirtualGpu], AbstractContextManager[Any]]


@contextlib.contextmanager
def _optimizers(form: str, value: bool, other: str) -> Iterator[None]:
    """Every optimizer that has this form, and whose form the script does not choose, is made in it."""
    original = Optimizer.__init__

    @functools.wraps(original)
    def made(self: Optimizer, params: Any, defaults: dict[str, Any]) -> None:
        if form in defaults and not defaults.get(form) and not defaults.get(other):
            defaults[form] = value
        original(self, params, defaults)

    with replaced(Optimizer, "__init__", made):
        yield


def _no_foreach(_gpu: VirtualGpu) -> AbstractContextManager[None]:
    return _optimizers("foreach", False, "fused")


def _fused(_gpu: VirtualGpu) -> AbstractContextManager[None]:
    return _optimizers("fused", True, "foreach")


def _no_grad(_gpu: VirtualGpu) -> AbstractContextManager[None]:
    return torch.no_grad()


@contextlib.contextmanager
def _no_autocast(_gpu: VirtualGpu) -> Iterator[None]:
    """What runs under autocast runs as it is; a gradient scaler goes on scaling."""
    kind = torch.amp.autocast_mode.autocast
    original = kind.__init__

    @functools.wraps(original)
    def made(self: Any, device_type: str, dtype: Any = None, enabled: bool = True, cache_enabled: Any = None) -> None:
        original(self, device_type, dtype, False, cache_enabled)

    with replaced(kind, "__init__", made):
        yield


def _no_cache(gpu: VirtualGpu) -> AbstractContextManager[None]:
    """The configuration of a model of transformers says whether keys and values are kept."""
    return _before_models(gpu, _drop_cache)


def _drop_cache(root: nn.Module) -> None:
    if root.training:
        keep_none(root)


def _checkpoint(gpu: VirtualGpu) -> AbstractContextManager[None]:
    """Every repeated block of every model that is trained."""
    done: list[nn.Module] = []

    def apply(root: nn.Module) -> None:
        if root.training and torch.is_grad_enabled() and all(root is not one for one in done):
            done.append(root)
            checkpoint_blocks(root)

    return _before_models(gpu, apply)


@contextlib.contextmanager
def _before_models(gpu: VirtualGpu, told: Callable[[nn.Module], None]) -> Iterator[None]:
    gpu.recorder.before_call = told
    try:
        yield
    finally:
        gpu.recorder.before_call = None


SCRIPT_CHANGES: dict[str, Change] = {
    "fused": _fused,
    "no-foreach": _no_foreach,
    "no-cache": _no_cache,
    "checkpoint": _checkpoint,
    "no-autocast": _no_autocast,
    "no-grad": _no_grad,
}
"""By the names that `memgraph run --change` knows."""
