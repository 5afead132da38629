"""On a GPU: what cuDNN says of recurrent layers' workspaces and reserves, through a handle, in 58,000 settings: each of
input, hidden size, steps and sequences varied alone around five points, and 60 points at random, for each kind of layer.

    python -m benchmarks.single_ops.recurrent_sizes FILE.json.gz      (three seconds)

`tests/data/recurrent_sizes_h200.json.gz` is one row in 16 of what it wrote, without those that cuDNN refuses.
"""

from __future__ import annotations

import ctypes
import gzip
import itertools
import json
import random
import sys
from collections.abc import Iterator
from ctypes import byref, c_int32, c_size_t, c_void_p
from pathlib import Path
from typing import Any

from memgraph.gpu.cudnn.library import find

_TYPES = {"f": 0, "h": 2, "b": 9}
_MODES, _ALGORITHMS, _LAYERS = (1, 2, 3), (0, 3), (1, 2, 3)
"""tanh, LSTM, GRU; the standard algorithm and that for small hidden sizes."""
_DOUBLE_BIAS, _TENSOR_CORES, _PADDED = 2, 1, 1
_AROUND = ((48, 80), (200, 96), (64, 64), (512, 256), (130, 320))
_HIDDEN = (8, 16, 24, 31, 32, 33, 48, 64, 65, 72, 80, 96, 100, 127, 128, 129, 160, 192, 193, 200, 256, 257, 300, 320, 384,
           385, 400, 512, 640, 768, 1024, 1536, 2048)  # fmt: skip
_INPUTS = (1, 3, 8, 13, 16, 31, 32, 40, 63, 64, 65, 80, 100, 128, 200, 256, 300, 512, 777, 1024, 2048)
_STEPS = (1, 2, 3, 5, 8, 10, 16, 32, 33, 50, 64, 100, 128, 200, 256, 500, 512, 1000)
_SEQUENCES = (1, 2, 3, 4, 5, 7, 8, 9, 12, 15, 17, 24, 31, 32, 33, 48, 63, 64, 65, 96, 100, 128, 129, 200, 256, 512)


class Recurrent:
    """cuDNN, through a handle."""

    def __init__(self) -> None:
        found = find()
        assert found is not None, "no cuDNN"
        self._library = ctypes.CDLL(found.path, mode=ctypes.RTLD_GLOBAL)
        self._handle, self._dropout, self._layers, self._data = c_void_p(), c_void_p(), c_void_p(), c_void_p()
        for name, made in (
            ("Create", self._handle), ("CreateDropoutDescriptor", self._dropout),
            ("CreateRNNDescriptor", self._layers), ("CreateRNNDataDescriptor", self._data),
        ):  # fmt: skip
            assert self._library[f"cudnn{name}"](byref(made)) == 0
        none = (ctypes.c_float(0), None, c_size_t(0), ctypes.c_ulonglong(1))
        assert self._library.cudnnSetDropoutDescriptor(self._dropout, self._handle, *none) == 0

    def sizes(
        self,
        mode: int,
        algorithm: int,
        kind: str,
        two: int,
        layers: int,
        inputs: int,
        hidden: int,
        steps: int,
        batch: int,
    ) -> list[int]:
        """Status, workspace and reserve of a training step as PyTorch asks for it."""
        numbers = (algorithm, mode, _DOUBLE_BIAS, two, 0, _TYPES[kind], 0, _TENSOR_CORES if kind == "h" else 0)
        set_layers, set_data = self._library.cudnnSetRNNDescriptor_v8, self._library.cudnnSetRNNDataDescriptor
        status = set_layers(
            self._layers, *map(c_int32, (*numbers, inputs, hidden, hidden, layers)), self._dropout, c_int32(_PADDED)
        )
        lengths = (c_int32 * batch)(*[steps] * batch)
        status = status or set_data(
            self._data, *map(c_int32, (_TYPES[kind], 0, steps, batch, inputs)), lengths, c_void_p()
        )
        workspace, reserve = c_size_t(), c_size_t()
        ask = self._library.cudnnGetRNNTempSpaceSizes
        status = status or ask(self._handle, self._layers, c_int32(1), self._data, byref(workspace), byref(reserve))
        return [status, workspace.value, reserve.value]


def points() -> list[tuple[int, int, int, int]]:
    """Input, hidden size, steps, sequences."""
    dice = random.Random(5)
    chance = [
        (dice.choice((1, 8, 16, 40, 64, 80, 100, 128, 200, 256, 512, 1024)),
         dice.choice((8, 16, 32, 50, 64, 100, 128, 192, 200, 256, 320, 384, 512, 600, 1024)),
         dice.choice((1, 5, 10, 20, 35, 64, 100, 200)), dice.choice((1, 2, 4, 8, 16, 20, 32, 64, 100, 128)))
        for _ in range(60)
    ]  # fmt: skip
    return list(dict.fromkeys(_sweeps())) + chance


def _sweeps() -> Iterator[tuple[int, int, int, int]]:
    for inputs, hidden in _AROUND:
        yield inputs, hidden, 20, 16
        yield from ((inputs, each, 20, 16) for each in _HIDDEN)
        yield from ((each, hidden, 20, 16) for each in _INPUTS)
        yield from ((inputs, hidden, each, 16) for each in _STEPS)
        yield from ((inputs, hidden, 20, each) for each in _SEQUENCES)


def main(out: str) -> None:
    """Write what it says of each."""
    recurrent = Recurrent()
    kinds = itertools.product(_MODES, _ALGORITHMS, _TYPES, (0, 1), _LAYERS)
    rows: list[Any] = []
    for kind, point in itertools.product(kinds, points()):
        rows.append([*kind, *point, *recurrent.sizes(*kind, *point)])
    Path(out).write_bytes(gzip.compress(json.dumps({"rows": rows}, separators=(",", ":")).encode(), 9, mtime=0))


if __name__ == "__main__":
    main(sys.argv[1])
