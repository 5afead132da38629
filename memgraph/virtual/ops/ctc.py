"""CTC loss on the virtual GPU, as aten/src/ATen/native/LossCTC.cpp and cuda/LossCTC.cu go about it.

cuDNN's own is not followed: it takes labels as one row of int32 and a blank of 0, which few scripts give it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch._ops import OpOverload
from torch._subclasses.fake_tensor import FakeTensor

from memgraph.virtual.values import known as values

aten = torch.ops.aten
_MEAN, _SUM = 1, 2


def composites(state: Callable[[str], None]) -> Mapping[OpOverload, Callable[..., Any]]:
    """The loss by its other name for each way in which lengths are given.

    Args:
        state: told what is assumed.
    """

    def of_tensors(
        log_probs: Tensor, targets: Tensor, input_lengths: Tensor, target_lengths: Tensor, blank: int = 0,
        reduction: int = _MEAN, zero_infinity: bool = False,
    ) -> Tensor:  # fmt: skip
        longest = targets.shape[-1] if targets.dim() == 2 else targets.numel() // max(1, target_lengths.numel())
        lengths = [_listed(input_lengths, log_probs.shape[0], state), _listed(target_lengths, longest, state)]
        return _loss(log_probs, targets, lengths[0], lengths[1], blank, reduction, zero_infinity)

    return {aten.ctc_loss.Tensor: of_tensors, aten.ctc_loss.IntList: _loss}


def _listed(lengths: Tensor, longest: int, state: Callable[[str], None]) -> list[int]:
    known = values.known(lengths) if isinstance(lengths, FakeTensor) else lengths
    if known is not None:
        return known.reshape(-1).tolist()
    state(f"lengths of CTC loss that are not known are taken to be {longest}")
    return [longest] * lengths.numel()


def _loss(
    log_probs: Tensor, targets: Tensor, input_lengths: Sequence[int], target_lengths: Sequence[int], blank: int = 0,
    reduction: int = _MEAN, zero_infinity: bool = False,
) -> Tensor:  # fmt: skip
    """`ctc_loss` of LossCTC.cpp."""
    batched = log_probs if log_probs.dim() == 3 else log_probs.unsqueeze(1)
    labels = targets.to(batched.device, torch.int64)
    result = aten._ctc_loss.default(batched, labels, input_lengths, target_lengths, blank, zero_infinity)[0]
    if zero_infinity:
        zero = result.new_zeros(())  # the compiler takes C++'s arguments from the last to the first
        result = torch.where(result == float("inf"), zero, result)
    if reduction == _MEAN:
        return (result / torch.tensor(target_lengths, dtype=result.dtype, device=result.device).clamp_min(1)).mean()
    return result.sum() if reduction == _SUM else result.squeeze(0) if log_probs.dim() == 2 else result


def forward(
    log_probs: Tensor, targets: Tensor, _input_lengths: Any, target_lengths: Sequence[int], *_: Any, **__: Any
) -> tuple[Tensor, Tensor]:
    """`_ctc_loss`: a loss a sample, and a log-probability for each step and each label or blank between them."""
    steps, batch = log_probs.shape[:2]
    places = 2 * max(target_lengths, default=0) + 1
    return log_probs.new_empty(batch), log_probs.new_empty((batch, steps, places))


def backward(_grad: Tensor, log_probs: Tensor, *_: Any, **__: Any) -> Tensor:
    """`_ctc_loss_backward`."""
    return log_probs.new_empty(log_probs.shape)


KERNELS: Mapping[OpOverload, Callable[..., Any]] = {
    aten._ctc_loss.default: forward,
    aten._ctc_loss_backward.default: backward,
}
