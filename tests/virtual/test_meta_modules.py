"""Modules that come from the meta device, and their parameters, as on a real card."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

import memgraph


def told(place: str) -> list[Any]:
    """What of a module's parameters can be seen on the way from the meta device and back."""
    with torch.device("meta"):
        net = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4), nn.BatchNorm1d(4))
    net[1].weight = weight = net[0].weight
    net.to_empty(device=place)
    seen = [net[0].weight is weight, net[1].weight is net[0].weight, isinstance(net[0].weight, nn.Parameter)]
    seen += [net[0].weight.device.type == place, net[2].running_mean.device.type == place, net[0].weight.requires_grad]
    net(torch.zeros(2, 4, device=place)).sum().backward()
    net.to("meta")
    gradient = net[0].weight.grad
    assert gradient is not None
    return [*seen, net[0].weight.device.type, gradient.device.type, gradient.shape]


def test_to_empty_makes_new_parameters_as_torch_does() -> None:
    real = told("cpu")
    with memgraph.virtual_gpu("rtx3090"):
        assert told("cuda") == real
        assert told("cpu") == real


def test_a_large_one_takes_its_bytes_once() -> None:
    with memgraph.virtual_gpu("rtx3090") as gpu:
        with torch.device("meta"):
            net = nn.Linear(2048, 2048, bias=False)
        net.to_empty(device="cuda")
    assert gpu.trace.peak.requested == 2048 * 2048 * 4
