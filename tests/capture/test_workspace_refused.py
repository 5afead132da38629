"""A convolution whose workspace does not fit takes another kernel, as PyTorch does, and keeps to it."""

from __future__ import annotations

import torch
from torch import nn

import memgraph
from memgraph.trace import Action, Role, Trace

MIB = 2**20
IMAGES = 64 * 64 * 64 * 64 * 4 // MIB
"""MiB of 64 images of 64 channels, 64 x 64, in fp32: 64."""


def convolved(memory: int, calls: int = 2) -> Trace:
    """Two images are alive at a call, and its workspace, of two more and the weight, beside them."""
    with memgraph.virtual_gpu("h200", memory=memory) as gpu:
        layer = nn.Conv2d(64, 64, 7, padding=3, bias=False, device="cuda")
        images = torch.empty(64, 64, 64, 64, device="cuda")
        with torch.no_grad():
            for _ in range(calls):
                layer(images)
    return gpu.trace


def workspaces(trace: Trace) -> list[int]:
    return [buffer.size for buffer in trace.buffers if buffer.role is Role.TEMPORARY]


def test_with_room_it_has_its_workspace() -> None:
    assert [size > IMAGES * MIB for size in workspaces(convolved(1024 * MIB))] == [True, True]


def test_without_room_it_goes_without() -> None:
    """The images, a result and a little more."""
    trace = convolved((2 * IMAGES + 10) * MIB)
    assert workspaces(trace) == []
    assert not [event for event in trace.events if event.action is Action.OUT_OF_MEMORY]


def test_what_is_no_workspace_is_still_an_error() -> None:
    trace = convolved((IMAGES + 10) * MIB)
    assert [event for event in trace.events if event.action is Action.OUT_OF_MEMORY]
