"""What asking cuDNN adds to a trace of a ResNet-50 step: without it, the first time, and when the answers are on disk.

    python -m benchmarks.speed.asking [ROUNDS]

Each trace is made in a process of its own, after one of a small step there. Seconds of the processor in the fastest of
the rounds: of the process that traces, and of the one that asks, which has loaded the library meanwhile.
"""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch
from torch import Tensor, nn

ROOT = Path(__file__).resolve().parents[2]
WAYS = ("without", "first", "second")


class Bottleneck(nn.Module):
    """1 x 1, 3 x 3 and 1 x 1 with a shortcut."""

    def __init__(self, inputs: int, width: int, stride: int) -> None:
        super().__init__()
        out = 4 * width
        self.main = nn.Sequential(
            nn.Conv2d(inputs, width, 1, bias=False), nn.BatchNorm2d(width), nn.ReLU(inplace=True),
            nn.Conv2d(width, width, 3, stride, 1, bias=False), nn.BatchNorm2d(width), nn.ReLU(inplace=True),
            nn.Conv2d(width, out, 1, bias=False), nn.BatchNorm2d(out),
        )  # fmt: skip
        same = inputs == out and stride == 1
        self.short = (
            nn.Identity() if same else nn.Sequential(nn.Conv2d(inputs, out, 1, stride, bias=False), nn.BatchNorm2d(out))
        )

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(self.main(x) + self.short(x))


def resnet50() -> nn.Module:
    """As "Deep residual learning for image recognition" has it, with the stride in the 3 x 3 convolutions."""
    blocks: list[nn.Module] = []
    inputs = 64
    for width, count in ((64, 3), (128, 4), (256, 6), (512, 3)):
        for index in range(count):
            blocks.append(Bottleneck(inputs, width, 2 if index == 0 and width > 64 else 1))
            inputs = 4 * width
    stem = [nn.Conv2d(3, 64, 7, 2, 3, bias=False), nn.BatchNorm2d(64), nn.ReLU(inplace=True), nn.MaxPool2d(3, 2, 1)]
    return nn.Sequential(*stem, *blocks, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(2048, 1000))


def step(model: nn.Module, batch: int) -> None:
    """Two steps of SGD."""
    model.cuda()
    optimizer = torch.optim.SGD(model.parameters(), 0.1, momentum=0.9)
    for _ in range(2):
        images, labels = torch.randn(batch, 3, 224, 224).cuda(), torch.randint(0, 1000, (batch,)).cuda()
        nn.functional.cross_entropy(model(images), labels).backward()
        optimizer.step()
        optimizer.zero_grad()


def traced() -> tuple[float, float]:
    """Seconds of the trace: of this process, and of the one that asks."""
    import memgraph
    from memgraph.gpu.cudnn.ask import asker

    with memgraph.virtual_gpu("h200"):
        nn.Linear(8, 8).cuda()(torch.randn(4, 8, device="cuda")).sum().backward()
    model, start = resnet50(), time.process_time()
    children = resource.getrusage(resource.RUSAGE_CHILDREN)
    before = children.ru_utime + children.ru_stime
    with memgraph.virtual_gpu("h200") as gpu:
        step(model, 64)
    assert gpu.trace.peak.requested > 0
    own, library = time.process_time() - start, asker()
    if library is not None:
        library.close()
    children = resource.getrusage(resource.RUSAGE_CHILDREN)
    return own, children.ru_utime + children.ru_stime - before


def measured(way: str, cache: Path) -> tuple[float, float]:
    """The same in a process of its own, with the answers that are in `cache`."""
    settings = {"XDG_CACHE_HOME": str(cache), "OMP_NUM_THREADS": "1"} | (
        {"MEMGRAPH_CUDNN": "off"} if way == "without" else {}
    )
    command = [sys.executable, "-m", "benchmarks.speed.asking", "--here"]
    done = subprocess.run(command, cwd=ROOT, env=os.environ | settings, capture_output=True, text=True, check=True)
    own, others = map(float, done.stdout.split()[-2:])
    return own, others


def main(rounds: int = 5) -> None:
    """Print the seconds of each way, and what asking adds."""
    best = dict.fromkeys(WAYS, (float("inf"), float("inf")))
    for _ in range(rounds):
        with tempfile.TemporaryDirectory() as folder:
            for way in WAYS:
                best[way] = min(best[way], measured(way, Path(folder)))
    added = {way: round(best[way][0] / best["without"][0] - 1, 3) for way in WAYS[1:]}
    seconds = {way: [round(value, 3) for value in both] for way, both in best.items()}
    print(json.dumps({"seconds, tracing and asking": seconds, "added to the trace": added}))


if __name__ == "__main__":
    if sys.argv[1:] == ["--here"]:
        print(*traced())
    else:
        main(*map(int, sys.argv[1:]))
