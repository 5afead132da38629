"""What ops return for tensors without values, where torch itself does not know: ops with a CUDA kernel and no meta one.

Each is called with the recorder as the active mode, so that what it makes is fake.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor
from torch._ops import OpOverload
from torch._subclasses.fake_tensor import FakeTensor, unset_fake_temporarily

from memgraph.virtual import values

aten = torch.ops.aten
Kernel = Callable[..., Any]


def kernels(state: Callable[[str], None]) -> Mapping[OpOverload, Kernel]:
    """All of them.

    Args:
        state: told what is assumed.
    """

    def pack(source: Tensor, lengths: Tensor, batch_first: bool) -> tuple[Tensor, Tensor]:
        """`_pack_padded_sequence` (aten/src/ATen/native/PackedSequence.cpp): how many sequences reach each step is a
        CPU tensor with values."""
        batch, steps = source.shape[:2] if batch_first else source.shape[1::-1]
        known = values.known(lengths) if isinstance(lengths, FakeTensor) else lengths
        if known is None:
            state("sequences of unknown lengths are packed as if each had the full length")
        with unset_fake_temporarily():
            longest = [steps] * batch if known is None else known.tolist()
            sizes = [sum(length > step for length in longest) for step in range(max(longest, default=0))]
            reached = torch.tensor(sizes, dtype=torch.int64)
        return source.new_empty((sum(sizes), *source.shape[2:])), reached

    return {
        aten._pack_padded_sequence.default: pack,
        aten._thnn_fused_gru_cell.default: _gru_cell,
        aten._thnn_fused_gru_cell_backward.default: _gru_cell_backward,
    }


def _gru_cell(input_gates: Tensor, hidden_gates: Tensor, hx: Tensor, *_: Any) -> tuple[Tensor, Tensor]:
    """aten/src/ATen/native/cuda/RNN.cu, `_thnn_fused_gru_cell_cuda`: five values are kept for each hidden element."""
    workspace = hx.new_empty((hx.shape[0], 5 * hx.shape[1]))
    return hx.new_empty(hx.shape), workspace


def _gru_cell_backward(grad: Tensor, workspace: Tensor, has_bias: bool) -> tuple[Tensor | None, ...]:
    batch, gates = workspace.shape[0], 3 * workspace.shape[1] // 5
    biases = [workspace.new_empty(gates) if has_bias else None for _ in range(2)]
    return workspace.new_empty((batch, gates)), workspace.new_empty((batch, gates)), grad.new_empty(grad.shape), *biases
