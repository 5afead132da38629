"""Measure a model's memory over batch sizes, the way scripts do it on a real card. It knows nothing of memgraph:

memgraph run --gpu rtx3060 --format none examples/measure_vram.py
"""

from __future__ import annotations

import gc

import torch
from torch import nn


def build() -> nn.Module:
    layer = nn.TransformerEncoderLayer(1024, 16, 4096, batch_first=True)
    return nn.Sequential(nn.Embedding(50000, 1024), nn.TransformerEncoder(layer, 12), nn.Linear(1024, 50000))


def measure(batch: int) -> float:
    """Peak MiB of two steps."""
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    model = build().to("cuda")
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4)
    for _ in range(2):
        tokens = torch.randint(0, 50000, (batch, 256)).to("cuda")
        with torch.autocast("cuda", dtype=torch.bfloat16):
            logits = model(tokens)
            loss = nn.functional.cross_entropy(logits.flatten(0, 1), tokens.flatten())
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    torch.cuda.synchronize()
    return torch.cuda.max_memory_allocated() / 2**20


def main() -> None:
    if not torch.cuda.is_available():
        print("this script needs a GPU, or: memgraph run --gpu rtx3060 measure_vram.py")
        return
    properties = torch.cuda.get_device_properties(0)
    print(f"{properties.name}, {properties.total_memory / 2**30:.2f} GiB")
    for batch in (1, 2, 4, 8, 16, 32, 64):
        try:
            print(f"batch {batch:3}: {measure(batch):9.2f} MiB", flush=True)
        except torch.cuda.OutOfMemoryError as error:
            print(f"batch {batch:3}: out of memory. {str(error).split('. GPU')[0]}", flush=True)
            break
        finally:
            gc.collect()


if __name__ == "__main__":
    main()
