"""Results whose strides are those of CUDA's kernels, not of torch's formulas for tensors without values."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

import memgraph


@pytest.mark.parametrize("softmax", [torch.softmax, torch.log_softmax])
def test_the_gradient_of_a_softmax_is_row_major(softmax: object) -> None:
    with memgraph.virtual_gpu("h200"):
        x = torch.randn(4, 6, 5, device="cuda", requires_grad=True)
        y = softmax(x, -1).transpose(0, 1)  # type: ignore[operator]
        (grad,) = torch.autograd.grad(y, x, torch.randn(6, 4, 5, device="cuda"))
        assert grad.stride() == (30, 5, 1)


@pytest.mark.parametrize("loss", [F.mse_loss, F.smooth_l1_loss, F.huber_loss])
def test_the_gradient_of_a_loss_of_elements_is_row_major(loss: object) -> None:
    with memgraph.virtual_gpu("h200"):
        x = torch.randn(4, 3, 8, 8, device="cuda").to(memory_format=torch.channels_last).requires_grad_()
        loss(x, torch.randn(4, 3, 8, 8, device="cuda")).backward()  # type: ignore[operator]
        assert x.grad is not None
        assert x.grad.stride() in ((192, 64, 8, 1), (192, 1, 24, 3))  # autograd gives a gradient its leaf's order
        y = (x * 1).contiguous(memory_format=torch.channels_last)
        (grad,) = torch.autograd.grad(loss(y, torch.randn_like(y)), y)  # type: ignore[operator]
        assert grad.stride() == (192, 64, 8, 1)


@pytest.mark.parametrize(("kernel", "dtype"), [(1, torch.float32), (3, torch.float32), (1, torch.float64)])
def test_a_weight_of_one_pixel_says_channels_last_by_its_strides(kernel: int, dtype: torch.dtype) -> None:
    """It is contiguous in both orders; (4, 1, 4, 4) says the second to `is_channels_last_strides_2d_s4`. An H200 took
    flash attention of such a layer's transposed halves. In double there is one order alone."""
    with memgraph.virtual_gpu("h200"):
        layer = torch.nn.Conv2d(4, 6, kernel, padding=kernel // 2).to("cuda", dtype, memory_format=torch.channels_last)
        assert layer.weight.stride()[1] == 1
        y = layer(torch.randn(2, 4, 5, 5, device="cuda", dtype=dtype))
        assert y.stride() == ((150, 25, 5, 1) if dtype is torch.float64 else (150, 1, 30, 6))


def test_infinite_losses_of_ctc_are_left_out() -> None:
    """As an H200 allocated them: a zero (4 bytes), which of 8 losses are infinite, the losses without those."""
    with memgraph.virtual_gpu("h200") as gpu:
        logits = torch.randn(20, 8, 5, device="cuda").log_softmax(-1)
        labels, lengths = torch.ones(8, 3, dtype=torch.long, device="cuda"), torch.full((8,), 3)
        F.ctc_loss(logits, labels, torch.full((8,), 20), lengths, zero_infinity=True, reduction="none")
    sizes = [buffer.size for buffer in gpu.trace.buffers]
    assert sizes[-3:] == [4, 8, 32]


def test_gradients_are_put_by_indices_on_the_host_too() -> None:
    """As Informer picks queries: rows by an `arange` of the host, columns by places on the card."""
    with memgraph.virtual_gpu("rtx3090"):
        x = torch.randn(8, 16, 4, device="cuda", requires_grad=True)
        columns = x.sum(-1).topk(3, dim=1).indices
        x[torch.arange(8)[:, None], columns].sum().backward()
        assert x.grad is not None and x.grad.shape == x.shape and x.grad.is_cuda
