"""Predict a training loop of one's own, twice: as it is, and with the optimizer that keeps no second moment.

python examples/own_model.py
"""

from __future__ import annotations

import torch
from torch import nn

import memgraph
from memgraph.units import format_bytes


def train(optimizer_class: type[torch.optim.Optimizer]) -> None:
    """Two steps, written as for a real card."""
    model = nn.TransformerEncoder(nn.TransformerEncoderLayer(512, 8, 2048, batch_first=True), 6).cuda()
    optimizer = optimizer_class(model.parameters(), lr=1e-4)
    for _ in range(2):
        x = torch.randn(16, 256, 512, device="cuda")
        with torch.autocast("cuda", torch.bfloat16):
            loss = model(x).square().mean()
        loss.backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)


def main() -> None:
    for optimizer_class in (torch.optim.AdamW, torch.optim.SGD):
        with memgraph.virtual_gpu("rtx3060", note=optimizer_class.__name__) as gpu:
            train(optimizer_class)
        peak = gpu.trace.peak
        print(
            f"{optimizer_class.__name__:6} requested {format_bytes(peak.requested)}, reserved "
            f"{format_bytes(peak.reserved)}; peak in the {peak.phase}, at {peak.op}"
        )
        for line in (*gpu.trace.assumptions, *gpu.trace.unknown_ops):
            print("       assumed or unknown:", line)


if __name__ == "__main__":
    main()
