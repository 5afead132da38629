"""Changes that can be made to a script without its help: its optimizers' form, gradients, caches, checkpoints, and how
its loss is computed."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim.optimizer import Optimizer

from memgraph.capture.session import VirtualGpu
from memgraph.capture.step import checkpoint_blocks
from memgraph.models.caches import keep_none
from memgraph.models.chunked_loss import chunked_cross_entropy
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
    return before_models(gpu, _drop_cache)


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

    return before_models(gpu, apply)


@contextlib.contextmanager
def before_models(gpu: VirtualGpu, told: Callable[[nn.Module], None]) -> Iterator[None]:
    """`told` is given each model that is called, before it is; beside whatever is told so already."""
    others = gpu.recorder.before_call

    def each(root: nn.Module) -> None:
        if others is not None:
            others(root)
        told(root)

    gpu.recorder.before_call = each
    try:
        yield
    finally:
        gpu.recorder.before_call = others


_CHUNKS = 8
_PLAIN = {"reduction": "mean", "label_smoothing": 0.0}
"""What `cross_entropy` is told where it is told nothing."""


def _chunked_loss(_gpu: VirtualGpu) -> AbstractContextManager[None]:
    """The loss of classes, of rows that are given as a whole: its fp32 copies and log-softmax are a chunk's."""
    original = F.cross_entropy

    @functools.wraps(original)
    def in_chunks(rows: Tensor, target: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        asked = {name: value for name, value in kwargs.items() if value is not None and value != _PLAIN.get(name)}
        ignored = asked.pop("ignore_index", -100)
        ours = rows.dim() == 2 and rows.requires_grad and not target.is_floating_point() and len(rows) >= _CHUNKS
        if args or asked or not ours:
            return original(rows, target, *args, **kwargs)
        return chunked_cross_entropy(_same, rows, target, _CHUNKS, ignore_index=ignored, loss=original)

    return replaced(F, "cross_entropy", in_chunks)


def _same(rows: Tensor) -> Tensor:
    return rows


SCRIPT_CHANGES: dict[str, Change] = {
    "fused": _fused,
    "no-foreach": _no_foreach,
    "no-cache": _no_cache,
    "chunked-loss": _chunked_loss,
    "checkpoint": _checkpoint,
    "no-autocast": _no_autocast,
    "no-grad": _no_grad,
}
"""By the names that `memgraph run --change` knows."""
