"""The order in which `torch.einsum` multiplies three tensors and more: another where opt_einsum is installed.

torch/functional.py asks it for a path, and goes from left to right where it is missing. What each product makes and
saves depends on the order, so a machine that differs in this takes other memory: mamba-minimal 13 % less with it.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from torch import _VF, Tensor
from torch.backends import opt_einsum

from memgraph.virtual.patches import replaced

_WITH = "torch.einsum multiplies three tensors or more in the order of opt_einsum, which is installed here,"
_WITHOUT = "torch.einsum multiplies three tensors or more from left to right, for opt_einsum is not installed here,"


@contextlib.contextmanager
def orders_are_said(say: Callable[[str], None]) -> Iterator[None]:
    """While open, it is said of each line that has such a product in which order it goes, unless it is told to."""
    functions: Any = _VF
    einsum = functions.einsum

    def said(equation: str, operands: Sequence[Tensor], *, path: Sequence[int] | None = None) -> Tensor:
        if len(operands) > 2 and (path is not None or not opt_einsum.is_available()):
            say(_WITHOUT if path is None else _WITH)
        product: Tensor = einsum(equation, operands, path=path)
        return product

    with replaced(functions, "einsum", said):
        yield
