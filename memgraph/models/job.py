"""What a capture runs: a model with its inputs, or somebody's own step."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping, MutableMapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

Batch = Mapping[str, Any]
"""One step's inputs by name. Tensors are moved to the device; anything else goes to the model as it is."""


@dataclass(frozen=True)
class Job:
    """A model to train for some steps. Nothing is built before the callables are called, so a device or fake mode
    that is active then holds for what they make."""

    model: Callable[[], nn.Module]
    """Builds the module, on the current default device."""
    inputs: Callable[[], Batch]
    """Builds one step's inputs, likewise, in the order in which a script would move them."""
    forward: Callable[[nn.Module, Batch], tuple[Any, Tensor]]
    """Runs the forward on a batch that is on the device: what the model returns besides the loss, and the scalar loss.
    A script that says `_, loss = model(...)` in its loop keeps both until the next step's forward has returned; the
    logits are among them, so keeping them or not is worth hundreds of MiB."""
    settings: Mapping[str, Any] = field(default_factory=dict)
    """What was chosen, as plain JSON values, for `Trace.settings`."""
    around: Callable[[Batch], contextlib.AbstractContextManager[Any]] = lambda _batch: contextlib.nullcontext()
    """What holds while one batch on the device goes forward and backward."""


@dataclass(frozen=True)
class OwnStep:
    """Somebody's callable that does one whole training step itself."""

    step: Callable[[], object]
    settings: Mapping[str, Any] = field(default_factory=dict)


def feed(batch: MutableMapping[str, Any], inputs: Batch, device: torch.device | str) -> None:
    """Move one step's inputs to the device. Each takes the place of the last step's as it arrives, so that old and new
    overlap one tensor at a time, as in a loop that says `images = images.to(device)`."""
    for name, value in inputs.items():
        batch[name] = value.to(device) if isinstance(value, Tensor) else value
