"""AdamW with 8-bit state, as far as memory goes."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import Tensor

from memgraph.errors import UsageError

BLOCK = 256
"""Elements that share a scale (bitsandbytes 0.45 on, `Optimizer2State.init_state`; 2,048 before)."""
SMALL = 4096
"""Tensors of fewer elements keep fp32 state (`min_8bit_size`)."""


class AdamW8bit(torch.optim.Optimizer):
    """Allocates what `bitsandbytes.optim.AdamW8bit` allocates, and updates nothing: each moment a byte an element and
    an fp32 scale a block, two tables of 256 values for all, and a step in place, parameter by parameter.

    Raises:
        UsageError: a form of torch's own optimizers was asked for.
    """

    def __init__(self, params: Iterable[Tensor], form: Mapping[str, Any]) -> None:
        if form:
            raise UsageError("adamw-8bit has one form only: leave --optimizer-impl out")
        super().__init__(params, {})
        self._tables: tuple[Tensor, Tensor] | None = None

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """As the real one in what it allocates."""
        loss = closure() if closure is not None else None
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None:
                    if not self.state[parameter]:
                        self.state[parameter].update(self._new_state(parameter))
                    parameter.add_(parameter.grad, alpha=0)
        return loss

    def _new_state(self, parameter: Tensor) -> dict[str, Tensor]:
        if parameter.numel() < SMALL:
            return {name: torch.zeros_like(parameter, dtype=torch.float32) for name in ("state1", "state2")}
        if self._tables is None:
            self._tables = (torch.empty(256).to(parameter.device), torch.empty(256).to(parameter.device))
        state = {name: torch.zeros_like(parameter, dtype=torch.uint8) for name in ("state1", "state2")}
        blocks = -(-parameter.numel() // BLOCK)
        return state | {name: torch.zeros(blocks, device=parameter.device) for name in ("absmax1", "absmax2")}
