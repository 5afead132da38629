"""What cuDNN's recurrent layers took on an H200, in 443 settings: LSTM, GRU and RNN, one to four layers, both ways,
three types."""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterator
from dataclasses import replace

from memgraph.gpu.recurrent import (
    GRU,
    LSTM,
    TANH,
    Layers,
    reserve_bytes,
    takes_small_algorithm,
    workspace_bytes,
    workspace_is_measured,
)
from tests import DATA

MODES = {"RNN": TANH, "LSTM": LSTM, "GRU": GRU}


def recorded() -> Iterator[tuple[Layers, float, int, int, int]]:
    """Layers, dropout, workspace of the forward, of the backward, reserve."""
    with gzip.open(DATA / "recurrent_h200.json.gz", "rt") as file:
        rows = json.load(file)["rows"]
    for kind, layers, two, hidden, inputs, steps, batch, itemsize, dropout, *sizes in rows:
        shape = Layers(MODES[kind], inputs, hidden, 0, layers, 1 + two, steps, batch, itemsize)
        yield shape, dropout, sizes[0], sizes[1], sizes[2]


def through_handle() -> Iterator[tuple[Layers, bool, int, int]]:
    """Layers, whether by the algorithm for small hidden sizes, workspace, reserve."""
    with gzip.open(DATA / "recurrent_sizes_h200.json.gz", "rt") as file:
        rows = json.load(file)["rows"]
    for mode, algorithm, dtype, two, layers, inputs, hidden, steps, batch, workspace, reserve in rows:
        shape = Layers(mode, inputs, hidden, 0, layers, 1 + two, steps, batch, 4 if dtype == "f" else 2)
        yield shape, algorithm == 3 and dtype != "b", workspace, reserve


def test_what_cudnn_says_through_a_handle() -> None:
    asked = list(through_handle())
    exact = sum(workspace_bytes(layers, small) == size for layers, small, size, _ in asked)
    assert (exact, len(asked)) == (3_033, 3_036)
    assert all(reserve_bytes(layers, 0.0) == size for layers, _, _, size in asked)


def test_what_pytorch_took() -> None:
    """Settings of other days. The law was read off others, but for dropout's part and the bound on steps whose gates'
    gradients are there at once, which these told. Of halves the file does not say which, and bf16 is by
    the standard algorithm always."""
    exact = count = 0
    for layers, dropout, *sizes, _ in recorded():
        for size, forward in zip(sizes, (True, False), strict=True):
            small = takes_small_algorithm(layers.mode, layers.hidden, forward=forward)
            either = {small, small and layers.itemsize == 4}
            exact += size in {workspace_bytes(layers, algorithm, dropout > 0) for algorithm in either}
            count += 1
    assert (exact, count) == (880, 886)


def test_packed_batches() -> None:
    """The steps of all sequences count, not those of the longest: 37 reserves, and the workspaces of LSTM and GRU."""
    with gzip.open(DATA / "recurrent_h200.json.gz", "rt") as file:
        rows = json.load(file)["packed"]
    reserves, workspaces = 0, [0, 0]
    for kind, layers, two, hidden, inputs, steps, batch, itemsize, dropout, forward, backward, reserve, packed in rows:
        shape = Layers(MODES[kind], inputs, hidden, 0, layers, 1 + two, steps, batch, itemsize, packed)
        reserves += reserve_bytes(shape, dropout) == reserve
        if workspace_is_measured(shape):
            workspaces[0] += workspace_bytes(shape, False, dropout > 0) == forward == backward
            workspaces[1] += 1
    assert (reserves, len(rows), workspaces) == (37, 37, [24, 25])


def test_reserves() -> None:
    found = [reserve_bytes(layers, dropout) == size for layers, dropout, _, _, size in recorded()]
    assert (sum(found), len(found)) == (443, 443)


def test_a_workspace_by_hand() -> None:
    """A GRU of one layer, 64 values in, 320 hidden, 40 steps of 16 sequences in fp32. Its weights are 3 × 320 × (64 +
    320) × 4 bytes; the larger of its moments holds four hidden states and two inputs a step, and five states."""
    weights, step, states = 3 * 320 * 384 * 4, 16 * 4 * (4 * 320 + 2 * 64), 16 * 4 * 5 * 320
    size = 8 * 2**20 + weights + 40 * step + states + 256 + 8 * 16
    assert size == 13_570_432  # as recorded
    assert workspace_bytes(Layers(GRU, 64, 320, 0, 1, 1, 40, 16, 4), small=False) == size


def test_layers_in_one_direction_work_on_some_steps_at_a_time() -> None:
    """Two layers of a GRU, 48 in, 80 hidden, 100 steps of 16 sequences in fp32: 24 steps at a time, of 100; but the
    gradients of the gates, 1 + 3 hidden states and one input a step, are larger, which 500 steps' are not."""
    row, weights = 16 * 4, 2 * 8 * 2**20 + 4 * 240 * (128 + 160) + 256 + 8 * 16
    layers = Layers(GRU, 48, 80, 0, 2, 1, 100, 16, 4)
    assert workspace_bytes(layers, small=False) == weights + row * (100 * (4 * 80 + 48) + 10 * 80)
    long = replace(layers, steps=500)
    assert workspace_bytes(long, small=False) == weights + row * (500 * (3 * 80 + 2 * 48) + (24 + 10) * 80)
