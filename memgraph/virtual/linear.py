"""`linear` with a bias on inputs that are not contiguous: the bias is added in place, as for ordinary tensors.

aten/src/ATen/native/Linear.cpp adds it out of place for tensor subclasses and under dispatch modes
(`isTensorSubclassLike`): one buffer more than a real run has.
"""

from __future__ import annotations

import torch
from torch import Tensor

aten = torch.ops.aten


def _linear(source: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    if bias is None or source.dim() < 3 or source.is_contiguous():
        result: Tensor = aten.linear.default.decompose(source, weight, bias)
        return result
    return torch.matmul(source, weight.t()).add_(bias)


COMPOSITES = {aten.linear.default: _linear}
