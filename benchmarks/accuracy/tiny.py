"""Two steps of a tiny model, as somebody's training script. Given a file, PyTorch's own snapshot of them is left there.

python -m benchmarks.accuracy.tiny [SNAPSHOT.pickle]
"""

from __future__ import annotations

import sys

import torch
from torch import nn


def main(snapshot: str = "") -> None:
    if snapshot:
        torch.cuda.memory._record_memory_history(enabled="all", context="alloc", stacks="python")
    model = nn.Sequential(nn.Linear(256, 1024), nn.GELU(), nn.LayerNorm(1024), nn.Linear(1024, 2**20 // 128)).cuda()
    optimizer = torch.optim.AdamW(model.parameters())
    for _ in range(2):
        loss = nn.functional.cross_entropy(
            model(torch.randn(128, 256, device="cuda")), torch.zeros(128, dtype=torch.long, device="cuda")
        )
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    if snapshot:
        torch.cuda.memory._dump_snapshot(snapshot)
    print(torch.cuda.get_device_name())


if __name__ == "__main__":
    main(*sys.argv[1:])
