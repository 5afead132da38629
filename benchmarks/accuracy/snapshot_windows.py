"""Three loops of which snapshots were recorded on an H200, whole or late: `OUT NAME START` records one, from step START
on (0 or 2); `OUT NAME START told` says, without a GPU, which share of the bytes at its peak has the category, the op,
and category, op and line of a prediction. Lines are known by their numbers: what is above `record` stays where it is.
"""

from __future__ import annotations

import gzip
import json
import sys
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import nn


# as many lines as when they were recorded
def double(inner: int, outer: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(inner, outer, 3, padding=1), nn.BatchNorm2d(outer), nn.ReLU(inplace=True),
        nn.Conv2d(outer, outer, 3, padding=1), nn.BatchNorm2d(outer), nn.ReLU(inplace=True),
    )


class UNet(nn.Module):
    def __init__(self, width: int = 32) -> None:
        super().__init__()
        w = width
        self.down = nn.ModuleList((double(3, w), double(w, 2 * w), double(2 * w, 4 * w), double(4 * w, 8 * w)))
        self.up = nn.ModuleList(nn.ConvTranspose2d(n * w, n * w // 2, 2, 2) for n in (8, 4, 2))
        self.join = nn.ModuleList((double(8 * w, 4 * w), double(4 * w, 2 * w), double(2 * w, w)))
        self.head = nn.Conv2d(w, 4, 1)

    def forward(self, x):
        kept = []
        for block in self.down[:-1]:
            x = block(x)
            kept.append(x)
            x = F.max_pool2d(x, 2)
        x = self.down[-1](x)
        for up, join, skip in zip(self.up, self.join, reversed(kept), strict=True):
            x = join(torch.cat([up(x), skip], 1))
        return self.head(x)


def unet(begin, steps):
    model = UNet().cuda()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9)
    for i in range(steps):
        optimizer.zero_grad()
        for _ in range(2):
            images = torch.randn(8, 3, 128, 128, device="cuda")
            labels = torch.randint(0, 4, (8, 128, 128), device="cuda")
            loss = F.cross_entropy(model(images), labels) / 2
            loss.backward()
        optimizer.step()
        begin(i + 1)


class Seq(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.words = nn.Embedding(12000, 256)
        self.net = nn.Transformer(256, 4, 2, 2, 1024, 0.1, batch_first=True)
        self.head = nn.Linear(256, 12000)

    def forward(self, a, b):
        mask = self.net.generate_square_subsequent_mask(b.shape[1], device=b.device)
        return self.head(self.net(self.words(a), self.words(b), tgt_mask=mask, tgt_is_causal=True))


def seq(begin, steps):
    model = Seq().to("cuda")
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-4)
    for i in range(steps):
        a, b = (torch.randint(0, 12000, (16, 96)).to("cuda") for _ in range(2))
        logits = model(a, b)
        loss = F.cross_entropy(logits.flatten(0, 1), b.flatten(), label_smoothing=0.1)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        begin(i + 1)


def gan(begin, steps):
    maker = nn.Sequential(
        nn.ConvTranspose2d(64, 256, 4, 1, 0), nn.BatchNorm2d(256), nn.ReLU(),
        nn.ConvTranspose2d(256, 128, 4, 2, 1), nn.BatchNorm2d(128), nn.ReLU(),
        nn.ConvTranspose2d(128, 64, 4, 2, 1), nn.BatchNorm2d(64), nn.ReLU(),
        nn.ConvTranspose2d(64, 3, 4, 2, 1), nn.Tanh(),
    ).cuda()
    judge = nn.Sequential(
        nn.Conv2d(3, 64, 4, 2, 1), nn.LeakyReLU(0.2), nn.Conv2d(64, 128, 4, 2, 1), nn.LeakyReLU(0.2),
        nn.Conv2d(128, 256, 4, 2, 1), nn.LeakyReLU(0.2), nn.Flatten(), nn.Linear(256 * 16, 1),
    ).cuda()
    first = torch.optim.Adam(maker.parameters(), lr=2e-4, betas=(0.5, 0.999))
    second = torch.optim.Adam(judge.parameters(), lr=2e-4, betas=(0.5, 0.999))
    for i in range(steps):
        real = torch.randn(64, 3, 32, 32, device="cuda")
        fake = maker(torch.randn(64, 64, 1, 1, device="cuda"))
        loss = F.softplus(-judge(real)).mean() + F.softplus(judge(fake.detach())).mean()
        second.zero_grad()
        loss.backward()
        second.step()
        other = F.softplus(-judge(fake)).mean()
        first.zero_grad()
        other.backward()
        first.step()
        begin(i + 1)


LOOPS = {"unet": unet, "seq": seq, "gan": gan}


def record(out: Path, name: str, start: int) -> None:
    torch.manual_seed(0)

    def begin(i: int) -> None:
        if i == start:
            torch.cuda.memory._record_memory_history("all", context="all", stacks="all", max_entries=1_000_000)

    begin(0)
    LOOPS[name](begin, start + 3)
    raw = out / f"{name}_{start}.pickle"
    torch.cuda.memory._dump_snapshot(str(raw))
    keep = ("requested_bytes", "allocated_bytes", "reserved_bytes")
    stats = {k: v for k, v in torch.cuda.memory_stats().items() if k.split(".")[0] in keep and ".all." in k}
    about = {"torch": torch.__version__, "cudnn": torch.backends.cudnn.version(), "statistics": stats}
    (out / f"{name}_{start}.json").write_text(json.dumps(about, indent=1))
    with gzip.open(f"{raw}.gz", "wb", 9) as file:
        file.write(raw.read_bytes())
    raw.unlink()


def told(out: Path, name: str, start: int) -> str:
    import tempfile
    from collections import Counter

    import memgraph

    with tempfile.NamedTemporaryFile(suffix=".pickle") as file:
        file.write(gzip.decompress((out / f"{name}_{start}.pickle.gz").read_bytes()))
        file.flush()
        recorded = memgraph.load(file.name)
    with memgraph.virtual_gpu("h200", torch="2.11") as gpu:
        LOOPS[name](lambda _: None, start + 3)
    ours, theirs = list(rows(gpu.trace)), list(rows(recorded))
    shares = []
    for width in (2, 3, 4):
        cut = [Counter(row[:width] for row in those) for those in (ours, theirs)]
        shares.append(sum(row[0] * count for row, count in (cut[0] & cut[1]).items()) / gpu.trace.peak.requested)
    return f"{name} from step {start + 1}: " + ", ".join(f"{share:.1%}" for share in shares)


def rows(trace):
    """Of each buffer at the peak its bytes, category, op, and the number of its line."""
    for index in trace.live_at(trace.peak.event):
        buffer = trace.buffers[index]
        op = trace.ops[buffer.op] if buffer.op >= 0 else None
        name = op.name.removeprefix("aten.").partition(".")[0] if op else "?"
        yield buffer.size, buffer.category, name, op.source.rpartition(":")[2] if op else "?"


if __name__ == "__main__":
    out, name, start = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3])
    print(told(out, name, start)) if len(sys.argv) > 4 else record(out, name, start)
