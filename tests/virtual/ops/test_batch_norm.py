"""Batch norm takes cuDNN's op where a build for CUDA would."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import memgraph
from memgraph.trace import Trace


def trained(shape: tuple[int, ...], dtype: torch.dtype, parameters: torch.dtype, *, evaluation: bool = False) -> Trace:
    kind = {2: nn.BatchNorm1d, 3: nn.BatchNorm1d, 4: nn.BatchNorm2d, 5: nn.BatchNorm3d}[len(shape)]
    with memgraph.virtual_gpu("h200") as gpu:
        module = kind(shape[1], device="cuda", dtype=parameters).train(not evaluation)
        module(torch.randn(shape, device="cuda", dtype=dtype, requires_grad=True)).square().sum().backward()
    assert gpu.trace.unknown_ops == ()
    return gpu.trace


@pytest.mark.parametrize(
    ("shape", "dtype", "parameters", "cudnn"),
    [
        ((2, 8, 4, 4), torch.float32, torch.float32, True),
        ((2, 8, 4), torch.float16, torch.float32, True),
        ((2, 8, 4, 4, 4), torch.float32, torch.float32, True),
        ((2, 8, 4, 4), torch.bfloat16, torch.float32, False),
        ((2, 8, 4, 4), torch.float16, torch.float16, False),
        ((16, 8), torch.float32, torch.float32, False),
    ],
)
def test_who_takes_it(shape: tuple[int, ...], dtype: torch.dtype, parameters: torch.dtype, cudnn: bool) -> None:
    names = [op.name for op in trained(shape, dtype, parameters).ops]
    assert ("aten.cudnn_batch_norm.default" in names) is cudnn
    assert ("aten.cudnn_batch_norm_backward.default" in names) is cudnn


def test_in_evaluation_the_backward_is_torchs_own() -> None:
    names = [op.name for op in trained((2, 8, 4, 4), torch.float32, torch.float32, evaluation=True).ops]
    assert "aten.cudnn_batch_norm.default" in names and "aten.native_batch_norm_backward.default" in names


def test_without_cudnn_it_is_torchs_own() -> None:
    with memgraph.virtual_gpu("h200") as gpu, torch.backends.cudnn.flags(enabled=False):
        F.batch_norm(
            torch.randn(2, 8, 4, 4, device="cuda"), None, None, *torch.ones(2, 8, device="cuda"), training=True
        )
    assert "aten.native_batch_norm.default" in [op.name for op in gpu.trace.ops]
