"""What is drawn from distributions, and windows of signals, without values.

Sources: aten/src/ATen/native/cuda/Distributions.cpp, aten/src/ATen/native/TensorFactories.cpp.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor
from torch._ops import OpOverload

aten = torch.ops.aten


def _drawn(parameter: Tensor, *_: Any, **__: Any) -> Tensor:
    """One for each element of the first parameter, row-major (`_s_gamma_cuda`, `_s_binomial_cuda` and their like)."""
    return parameter.new_empty(parameter.shape)


def _kaiser_window(length: int, periodic: bool = True, beta: float = 12.0, **options: Any) -> Tensor:
    """`kaiser_window`: one that is periodic is all but the last of one that is longer."""
    if length <= 1 or not periodic:
        return torch.empty(length, **options)
    return torch.empty(length + 1, **options).narrow(0, 0, length)


KERNELS: Mapping[OpOverload, Callable[..., Any]] = {
    aten._standard_gamma.default: _drawn,
    aten._standard_gamma_grad.default: _drawn,
    aten._sample_dirichlet.default: _drawn,
    aten._dirichlet_grad.default: _drawn,
    aten.binomial.default: _drawn,
    aten.kaiser_window.default: _kaiser_window,
    aten.kaiser_window.periodic: _kaiser_window,
    aten.kaiser_window.beta: _kaiser_window,
}
