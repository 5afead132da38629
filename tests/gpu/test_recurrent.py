"""What cuDNN's recurrent layers took on an H200, in 443 settings: LSTM, GRU and RNN, one to four layers, both ways,
three types."""

from __future__ import annotations

import gzip
import json
from collections import Counter
from collections.abc import Iterator

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


def test_workspaces() -> None:
    """By whether the rule calls itself measured: exact, and how many there are."""
    exact, count = Counter[bool](), Counter[bool]()
    for layers, dropout, *sizes, _ in recorded():
        for size, forward in zip(sizes, (True, False), strict=True):
            small = takes_small_algorithm(layers.mode, layers.hidden, forward=forward)
            known = workspace_is_measured(layers, small)
            count[known] += 1
            exact[known] += workspace_bytes(layers, small, dropout > 0) == size
    assert (exact[True], count[True]) == (564, 592)
    assert (exact[False], count[False]) == (163, 294)


def test_packed_batches() -> None:
    """The steps of all sequences count, not those of the longest: 37 reserves, and the workspaces of LSTM and GRU."""
    with gzip.open(DATA / "recurrent_h200.json.gz", "rt") as file:
        rows = json.load(file)["packed"]
    reserves, workspaces = 0, [0, 0]
    for kind, layers, two, hidden, inputs, steps, batch, itemsize, dropout, forward, backward, reserve, packed in rows:
        shape = Layers(MODES[kind], inputs, hidden, 0, layers, 1 + two, steps, batch, itemsize, packed)
        reserves += reserve_bytes(shape, dropout) == reserve
        if workspace_is_measured(shape, small=False):
            workspaces[0] += workspace_bytes(shape, False, dropout > 0) == forward == backward
            workspaces[1] += 1
    assert (reserves, len(rows), workspaces) == (37, 37, [24, 25])


def test_reserves() -> None:
    found = [reserve_bytes(layers, dropout) == size for layers, dropout, _, _, size in recorded()]
    assert (sum(found), len(found)) == (443, 443)


def test_a_workspace_by_hand() -> None:
    """A GRU of one layer, 64 values in, 320 hidden, 40 steps of 16 sequences in fp32. Its weights are 3 × 320 × (64 +
    320) × 4 bytes; a step holds 3 + 1 hidden states (the wider is the hidden one) and 2 inputs; a layer 5 states."""
    weights, step, states = 3 * 320 * 384 * 4, 16 * 4 * (4 * 320 + 2 * 64), 16 * 4 * 5 * 320
    size = 8 * 2**20 + weights + 40 * step + states + 256 + 8 * 16
    assert size == 13_570_432  # as recorded
    assert workspace_bytes(Layers(GRU, 64, 320, 0, 1, 1, 40, 16, 4), small=False) == size
