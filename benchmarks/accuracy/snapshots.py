"""Snapshots of PyTorch of a small training step, on a GPU: with frames of Python, of C++ too, from the beginning or
from the second step on, of a step that runs out of memory, and with expandable segments.

    python -m benchmarks.accuracy.snapshots OUT            # all cases, each in a process of its own
    python -m benchmarks.accuracy.snapshots OUT both       # one of them

Writes OUT/NAME.pickle.gz and OUT/NAME.json (torch's own statistics) of each, and OUT/snapshots.tar with all of them.
Nothing but torch is needed. The lines of the model are in this file: bring it along with what it wrote.
"""

from __future__ import annotations

import gzip
import json
import os
import subprocess
import sys
import tarfile
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import nn

CASES = {
    # name: (model, stacks, from which step on, environment, share of the card or 0)
    "both": ("gpt", "all", 0, "", 0),
    "python": ("gpt", "python", 0, "", 0),
    "window": ("gpt", "all", 1, "", 0),
    "window_python": ("gpt", "python", 1, "", 0),
    "convnet": ("convnet", "all", 0, "", 0),
    "expandable": ("gpt", "all", 0, "expandable_segments:True", 0),
    "oom": ("gpt", "all", 0, "", 1),
    "state": ("gpt", "python", -1, "", 0),
}


class Attention(nn.Module):
    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)

    def forward(self, x):
        b, n, w = x.shape
        q, k, v = self.qkv(x).view(b, n, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        y = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        return self.out(y.transpose(1, 2).reshape(b, n, w))


class Block(nn.Module):
    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.attention = Attention(width, heads)
        self.up, self.down = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, x):
        x = x + self.attention(self.norm1(x))
        y = F.gelu(self.up(self.norm2(x)))
        return x + self.down(y)


class Gpt(nn.Module):
    """GPT-2's architecture: 4 layers of 512, a vocabulary of 16,000."""

    def __init__(self, width: int = 512, heads: int = 8, layers: int = 4, words: int = 16000, length: int = 256):
        super().__init__()
        self.tokens, self.places = nn.Embedding(words, width), nn.Embedding(length, width)
        self.blocks = nn.ModuleList(Block(width, heads) for _ in range(layers))
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, words, bias=False)

    def forward(self, ids, labels):
        places = torch.arange(ids.shape[1], device=ids.device)
        x = self.tokens(ids) + self.places(places)
        for block in self.blocks:
            x = block(x)
        logits = self.head(self.norm(x))
        return F.cross_entropy(logits.flatten(0, 1).float(), labels.flatten())


class Basic(nn.Module):
    """A basic block of a ResNet."""

    def __init__(self, inner: int, outer: int, stride: int) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(inner, outer, 3, stride, 1, bias=False), nn.BatchNorm2d(outer)
        self.conv2, self.bn2 = nn.Conv2d(outer, outer, 3, 1, 1, bias=False), nn.BatchNorm2d(outer)
        self.short = nn.Conv2d(inner, outer, 1, stride, bias=False)

    def forward(self, x):
        y = F.relu(self.bn1(self.conv1(x)))
        y = self.bn2(self.conv2(y))
        return F.relu(y + self.short(x))


class Convnet(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 64, 7, 2, 3)
        self.blocks = nn.Sequential(Basic(64, 64, 1), Basic(64, 128, 2), Basic(128, 256, 2))
        self.head = nn.Linear(256, 1000)

    def forward(self, images, labels):
        x = F.max_pool2d(self.stem(images), 3, 2, 1)
        x = self.blocks(x).mean((2, 3))
        return F.cross_entropy(self.head(x), labels)


def made(kind: str, batch: int):
    if kind == "gpt":
        ids = torch.randint(0, 16000, (batch, 256))
        return Gpt().cuda(), (ids.cuda(), ids.cuda())
    return Convnet().cuda(), (torch.randn(4 * batch, 3, 128, 128).cuda(), torch.randint(0, 1000, (4 * batch,)).cuda())


def step(model, optimizer, inputs) -> None:
    with torch.autocast("cuda", torch.bfloat16):
        loss = model(*inputs)
    loss.backward()
    optimizer.step()
    optimizer.zero_grad()


def train(kind: str, begin, steps: int = 2, batch: int = 8) -> None:
    """`begin(i)` is told before the model is made (0) and after step i."""
    begin(0)
    model, inputs = made(kind, batch)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4)
    for i in range(steps):
        step(model, optimizer, inputs)
        begin(i + 1)


def record(name: str, out: Path) -> None:
    kind, stacks, start, _, share = CASES[name]
    torch.manual_seed(0)

    def begin(i: int) -> None:
        if i == start:
            torch.cuda.memory._record_memory_history("all", context="all", stacks=stacks, max_entries=1_000_000)
        if start < 0 and i == 0:
            torch.cuda.memory._record_memory_history("state", context="state", stacks=stacks)

    failed = ""
    if share:
        total = torch.cuda.get_device_properties(0).total_memory
        torch.cuda.set_per_process_memory_fraction(0.9 * 2**30 / total)
    try:
        train(kind, begin, steps=2 if start < 2 else 3)
    except torch.cuda.OutOfMemoryError as error:
        failed = str(error)
    raw = out / f"{name}.pickle"
    torch.cuda.memory._dump_snapshot(str(raw))
    stats = {
        k: v
        for k, v in torch.cuda.memory_stats().items()
        if k.split(".")[0] in ("requested_bytes", "allocated_bytes", "reserved_bytes", "active_bytes") and ".all." in k
    }
    about = {
        "torch": torch.__version__,
        "gpu": torch.cuda.get_device_name(),
        "failed": failed,
        "statistics": stats,
        "total_memory": torch.cuda.get_device_properties(0).total_memory,
    }
    (out / f"{name}.json").write_text(json.dumps(about, indent=1))
    with gzip.open(out / f"{name}.pickle.gz", "wb", 9) as file:
        file.write(raw.read_bytes())
    raw.unlink()


def main() -> None:
    out = Path(sys.argv[1])
    out.mkdir(parents=True, exist_ok=True)
    if len(sys.argv) > 2:
        record(sys.argv[2], out)
        return
    for name, (_, _, _, settings, _) in CASES.items():
        environment = {**os.environ, "PYTORCH_CUDA_ALLOC_CONF": settings} if settings else dict(os.environ)
        done = subprocess.run([sys.executable, __file__, out, name], env=environment, capture_output=True, text=True)
        print(name, done.returncode, (done.stderr.strip().splitlines() or [""])[-1][:200], flush=True)
    with tarfile.open(out / "snapshots.tar", "w") as tar:
        for path in sorted(out.glob("*.pickle.gz")) + sorted(out.glob("*.json")):
            print(f"{path.name}: {path.stat().st_size:,} bytes")
            tar.add(path, path.name)


if __name__ == "__main__":
    main()
