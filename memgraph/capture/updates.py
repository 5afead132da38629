"""Follows the optimizers of a run: what they are given, what state they keep, and where steps end."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import torch
from torch.optim.optimizer import (
    Optimizer,
    register_optimizer_step_post_hook,
    register_optimizer_step_pre_hook,
)

from memgraph.capture.facts import Facts
from memgraph.capture.recorder import Recorder
from memgraph.capture.tags import parameter_name
from memgraph.trace import Category


class Updates:
    """See the module's text.

    Args:
        recorder: marks what belongs to a parameter.
        facts: told of parameters without a gradient.
        ended: called at the end of each step.
    """

    def __init__(self, recorder: Recorder, facts: Facts, ended: Callable[[], None]) -> None:
        self._recorder, self._facts, self._ended = recorder, facts, ended
        self.after_step: Callable[[], None] | None = None
        """Called when an optimizer has stepped."""
        self.entries = (Updates._before_step, Updates._after_step)
        """What torch calls: functions that a compiler shall not look into."""

    @contextlib.contextmanager
    def followed(self) -> Iterator[None]:
        """While open, every optimizer's steps are followed."""
        before = register_optimizer_step_pre_hook(self._before_step)
        after = register_optimizer_step_post_hook(self._after_step)
        try:
            yield
        finally:
            before.remove()
            after.remove()

    def _before_step(self, optimizer: Optimizer, *_: Any) -> None:
        recorder = self._recorder
        recorder.describing.leader = threading.get_ident()
        recorder.stage.optimizer_starts()
        self._facts.steps(optimizer, [form for form in ("foreach", "fused") if form in optimizer.defaults])
        without, moved = [], []
        for name, parameter in _parameters(optimizer):
            recorder.marks.mark(parameter, Category.PARAMETER, name)
            if parameter.grad is not None:
                recorder.marks.mark(parameter.grad, Category.GRADIENT, f"gradient of {name}" if name else "")
                moved.append(parameter)
            elif parameter.requires_grad:
                without.append(parameter)
        if without or self._facts.idle:
            self._facts.given(type(optimizer).__name__, self._buffers(without), self._buffers(moved))

    def _after_step(self, optimizer: Optimizer, *_: Any) -> None:
        recorder = self._recorder
        for name, parameter in _parameters(optimizer):
            for key, value in optimizer.state.get(parameter, {}).items():
                if isinstance(value, torch.Tensor):
                    recorder.marks.mark(value, Category.OPTIMIZER, f"{key} of {name}" if name else str(key))
        recorder.storages.check()
        self._ended()
        recorder.stage.optimizer_ends(inside_autograd=torch._C._current_autograd_node() is not None)
        if self.after_step is not None:
            self.after_step()

    def _buffers(self, parameters: Iterable[torch.Tensor]) -> list[int]:
        found = map(self._recorder.storages.buffer_of, parameters)
        return [buffer for buffer in found if buffer is not None]


def _parameters(optimizer: Optimizer) -> list[tuple[str, torch.Tensor]]:
    return [(parameter_name(p), p) for group in optimizer.param_groups for p in group["params"]]
