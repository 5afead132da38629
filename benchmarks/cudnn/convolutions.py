"""Convolutions made at random, as networks have them: kinds, types and layouts mixed.

python -m benchmarks.cudnn.convolutions SEED COUNT FILE.json
"""

from __future__ import annotations

import json
import math
import random
import sys
from pathlib import Path
from typing import Any

from memgraph.gpu.call import TensorMeta
from memgraph.gpu.cudnn.question import Convolution, question
from memgraph.gpu.rules.layout import dense

_CHANNELS = (3, 16, 24, 32, 40, 48, 64, 64, 96, 112, 128, 128, 160, 192, 240, 256, 256, 320, 384, 480, 512, 640, 672,
             768, 960, 1024, 1280, 2048)  # fmt: skip
_SIDES = (7, 8, 10, 14, 16, 20, 24, 28, 32, 38, 40, 43, 48, 56, 64, 75, 80, 86, 96, 112, 128, 150, 160, 192, 224, 256)
_BATCHES = (1, 2, 4, 6, 8, 8, 12, 16, 16, 20, 24, 32, 32, 48, 50, 64, 64, 96, 100, 128, 200, 256)
_KINDS = {"2d": 55, "1d": 7, "3d": 8, "grouped": 8, "depthwise": 8, "dilated": 5, "transposed": 9}
_MOST = 2**28
"""Elements of the largest tensor."""


def made(seed: int, count: int) -> list[dict[str, Any]]:
    """So many, each with its three directions one after the other. `x` is a convolution's input and `y` its output; a
    transposed one has `y` as its input."""
    dice = random.Random(seed)
    cases: list[dict[str, Any]] = []
    while len(cases) < count:
        case = _one(dice)
        if case is not None:
            cases += [{**case, "op": direction} for direction in ("forward", "data", "weight")]
    return cases[:count]


def asked(case: dict[str, Any]) -> Convolution:
    """What cuDNN is told of it."""
    x, w, y = (_tensor(case[name], case["dtype"]) for name in "xwy")
    return question(case["op"], x, w, y, case["stride"], case["pad"], case["dil"], case["cl"])


def _tensor(shape: list[int], dtype: str) -> TensorMeta:
    return dense(shape, dtype)


def _one(dice: random.Random) -> dict[str, Any] | None:
    kind = dice.choices(list(_KINDS), list(_KINDS.values()))[0]
    rank = {"1d": 1, "3d": 3}.get(kind, 2)
    kernel, stride, dilation = _steps(dice, kind, rank)
    padding = dice.choice([dilation * (kernel // 2)] * 4 + [0])
    inputs, outputs, groups = _channels(dice, kind)
    space = _space(dice, rank)
    batch = dice.choice(_BATCHES)
    out = [(side + 2 * padding - dilation * (kernel - 1) - 1) // stride + 1 for side in space]
    shapes = {
        "x": [batch, inputs, *space],
        "w": [outputs, inputs // groups, *[kernel] * rank],
        "y": [batch, outputs, *out],
    }
    if min(out) < 1 or max(map(math.prod, shapes.values())) > _MOST:
        return None
    dtype = dice.choice(["float32", "float32", "bfloat16", "float16"])
    last = dice.random() < (0.5 if rank == 2 else 0.2) and rank > 1
    return {"kind": kind, **shapes, "pad": [padding] * rank, "stride": [stride] * rank, "dil": [dilation] * rank,
            "groups": groups, "dtype": dtype, "cl": last}  # fmt: skip


def _steps(dice: random.Random, kind: str, rank: int) -> tuple[int, int, int]:
    """Kernel, stride, dilation."""
    if kind == "dilated":
        return 3, 1, dice.choice([2, 4, 6])
    kernel = dice.choice([1, 1, 3, 3, 3, 3, 3, 4, 5, 7]) if rank < 3 else dice.choice([1, 3, 3, 3])
    return kernel, 2 if kernel == 4 else dice.choice([1, 1, 1, 2, 2]), 1


def _channels(dice: random.Random, kind: str) -> tuple[int, int, int]:
    """In, out, groups."""
    if kind == "grouped":
        channels = dice.choice([64, 128, 256, 512, 1024])
        return channels, channels, dice.choice([2, 4, 8, 16, 32])
    if kind == "depthwise":
        channels = dice.choice([32, 64, 96, 144, 192, 240, 288, 384, 480, 672, 960])
        return channels, channels, channels
    return dice.choice(_CHANNELS), dice.choice(_CHANNELS[1:]), 1


def _space(dice: random.Random, rank: int) -> list[int]:
    if rank == 1:
        return [dice.choice([64, 100, 128, 250, 512, 1000, 1024, 2048, 4096])]
    if rank == 3:
        return [dice.choice([4, 8, 16, 32]), *[dice.choice([14, 28, 32, 56, 64])] * 2]
    side = dice.choice(_SIDES)
    return [side, side if dice.random() < 0.8 else dice.choice([side * 2, side + 6, side * 3 // 2])]


if __name__ == "__main__":
    Path(sys.argv[3]).write_text(json.dumps(made(int(sys.argv[1]), int(sys.argv[2]))))
