"""Sizes of what cuDNN's recurrent layers need: the flat weights, the reserve space, the workspace, the dropout state.

cuDNN answers for these itself (`cudnnGetRNNWeightSpaceSize`, `cudnnGetRNNTempSpaceSizes`, `cudnnDropoutGetStatesSize`),
but only through a handle, which needs a card; so what is written here was read off an H200 with cuDNN 9.19
(`tests/data/recurrent_h200.json.gz`: 486 settings of LSTM, GRU and RNN, and `ops_h200_layers.json.gz`). Where it is not
exact is said in `workspace_is_measured`. All sizes in bytes.

What the copies of `_COPIES` are for cuDNN does not tell: their counts are read off. Read off half of the settings of
each kind they give 554 of the 592 workspaces of the other half to the byte, each half in turn, where those here give
564; of kinds that are not called measured 136 of 294 (`benchmarks/single_ops/recurrent_halves.py`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

_MIB = 2**20
RELU, TANH, LSTM, GRU = range(4)
"""cuDNN's numbers of the kinds, which `aten::_cudnn_rnn` takes as `mode`."""

_NAMES = {RELU: "RNN", TANH: "RNN", LSTM: "LSTM", GRU: "GRU"}
_GATES = {RELU: 1, TANH: 1, LSTM: 4, GRU: 3}
_RESERVED = {RELU: 1, TANH: 1, LSTM: 5, GRU: 6}
"""Values that the reserve keeps for each hidden element: an LSTM's gates and cell, six for a GRU."""
_CURAND_STATE = 24
"""Bytes of a random state; cuDNN keeps one for each thread that the card can run: 132 x 2048 x 24 = 6,488,064 on an
H200."""
_ALWAYS, _LENGTHS = 256, 8
"""Bytes of any workspace, and of each sequence, for its length on both sides."""


class _Copies(NamedTuple):
    """How often a workspace holds what goes through the layers."""

    hidden: int
    """Hidden states of one direction, for each step."""
    inputs: int
    """The input, for each step."""
    wider: int
    """The wider of the two."""
    states: int
    """Hidden states, for each layer and direction."""
    wider_states: int = 0
    """The wider of hidden state and input, for each layer and direction."""
    exact: bool = True
    """Whether nine in ten of the recorded sizes are these to the byte."""


_COPIES = {  # by kind, whether in two directions, whether there are several layers
    ("RNN", False, False): _Copies(2, 2, 2, 3, 2), ("RNN", False, True): _Copies(3, 1, 1, 5, exact=False),
    ("RNN", True, False): _Copies(6, 2, 4, 4, 3), ("RNN", True, True): _Copies(8, 2, 4, 7),
    ("LSTM", False, False): _Copies(3, 1, 2, 5, 5, exact=False),
    ("LSTM", False, True): _Copies(4, 1, 1, 5, 5, exact=False),
    ("LSTM", True, False): _Copies(12, 1, 2, 7, 5), ("LSTM", True, True): _Copies(13, 1, 1, 12),
    ("GRU", False, False): _Copies(3, 2, 1, 5), ("GRU", False, True): _Copies(3, 1, 1, 5, exact=False),
    ("GRU", True, False): _Copies(9, 1, 3, 4, 3), ("GRU", True, True): _Copies(8, 2, 4, 7),
}  # fmt: skip
_SMALL_COPIES = {
    ("RNN", False, False): _Copies(12, 2, 1, 6), ("RNN", False, True): _Copies(13, 2, 1, 6, exact=False),
    ("RNN", True, False): _Copies(15, 2, 4, 7), ("RNN", True, True): _Copies(17, 2, 4, 7),
    ("LSTM", False, False): _Copies(21, 1, 0, 8, exact=False), ("LSTM", False, True): _Copies(21, 1, 1, 8, exact=False),
    ("LSTM", True, False): _Copies(30, 1, 0, 9, exact=False),
    ("LSTM", True, True): _Copies(30, 1, 0, 5, 4, exact=False),
    ("GRU", False, False): _Copies(18, 2, 0, 6), ("GRU", False, True): _Copies(18, 2, 1, 6, exact=False),
    ("GRU", True, False): _Copies(20, 2, 4, 7, exact=False), ("GRU", True, True): _Copies(22, 2, 4, 7, exact=False),
}  # fmt: skip
"""The same of the algorithm for small hidden sizes."""


_PACKED = {"LSTM": ((4, 6), (12, 8)), "GRU": ((3, 3), (10, 5))}
"""Of packed batches in one direction and in two: hidden states for each step of each sequence, and for each layer and
direction. 24 of the 25 recorded are these to the byte."""


@dataclass(frozen=True)
class Layers:
    """A stack of recurrent layers and the batch it is given."""

    mode: int
    inputs: int
    hidden: int
    projected: int
    """Size of an LSTM's projected state, 0 without one."""
    layers: int
    directions: int
    steps: int
    batch: int
    """Sequences."""
    itemsize: int
    packed: int = 0
    """Steps of all sequences together in a packed batch; 0 where they are padded."""

    @property
    def kind(self) -> tuple[str, bool, bool]:
        """Its name, whether it goes in two directions, whether there are several layers."""
        return _NAMES[self.mode], self.directions == 2, self.layers > 1

    @property
    def gates(self) -> int:
        return _GATES[self.mode]

    @property
    def outputs(self) -> int:
        """Width of one direction's output."""
        return self.projected or self.hidden

    def matrix_shapes(self) -> list[tuple[tuple[int, int], ...]]:
        """For each layer and direction its input and recurrent weights, and its projection if there is one."""
        rows = self.gates * self.hidden
        shapes = []
        for layer in range(self.layers):
            width = self.inputs if layer == 0 else self.outputs * self.directions
            own: tuple[tuple[int, int], ...] = ((rows, width), (rows, self.outputs))
            shapes += [own + (((self.projected, self.hidden),) if self.projected else ())] * self.directions
        return shapes

    @property
    def matrix_elements(self) -> int:
        """Elements of all weights without the biases."""
        return sum(rows * columns for own in self.matrix_shapes() for rows, columns in own)

    @property
    def weight_elements(self) -> int:
        """Elements of the flat weights: cuDNN's layout has both biases also where the module has none."""
        return self.matrix_elements + self.layers * self.directions * 2 * self.gates * self.hidden


def reserve_bytes(layers: Layers, dropout: float) -> int:
    """What the forward leaves for the backward: gates and outputs of each layer but the last's output, a bit an element
    for dropout between layers and each direction, 256 bytes more."""
    padded = layers.steps * layers.batch * layers.hidden * layers.directions
    states = layers.packed * layers.hidden * layers.directions or padded
    values = (_RESERVED[layers.mode] * layers.layers + layers.layers - 1) * states * layers.itemsize
    masks = (layers.layers - 1) * layers.directions * _up(_up(padded, 8) // 8, 32) if dropout else 0
    return _up(values, 16 * layers.itemsize) + masks + 256


def workspace_bytes(layers: Layers, small: bool, dropout: bool = False) -> int:
    """Scratch of one call: 8 MiB a layer and direction, a copy of the weights, and copies of what goes through; one
    more where several layers in one direction have dropout between them."""
    if layers.packed and layers.kind[0] in _PACKED:
        return _packed_bytes(layers, dropout)
    fixed, parts = workspace_parts(layers, dropout)
    return fixed + sum(count * part for count, part in zip(_copies(layers, small)[:5], parts, strict=True))


def workspace_parts(layers: Layers, dropout: bool) -> tuple[int, tuple[int, ...]]:
    """What any workspace holds, and the bytes of one copy of each thing that `_Copies` counts, in its order."""
    row, stack = layers.batch * layers.itemsize, layers.layers * layers.directions
    wider = max(layers.inputs, layers.hidden)
    dropped = dropout and layers.layers > 1 and layers.directions == 1
    fixed = 8 * _MIB * stack + layers.matrix_elements * layers.itemsize + _ALWAYS + _up(_LENGTHS * layers.batch, 32)
    step, state = layers.steps * row, row * stack
    parts = (step * layers.hidden, step * layers.inputs, step * wider, state * layers.hidden, state * wider)
    return fixed + dropped * step * layers.hidden, parts


def _packed_bytes(layers: Layers, dropout: bool) -> int:
    """The same for a packed batch, which needs no copies by sequence."""
    hidden, states = _PACKED[layers.kind[0]][layers.directions - 1]
    hidden += dropout and layers.layers > 1 and layers.directions == 1
    row = layers.hidden * layers.itemsize
    size = (8 * _MIB + states * layers.batch * row) * layers.layers * layers.directions
    return size + layers.matrix_elements * layers.itemsize + layers.packed * hidden * row + _ALWAYS


def workspace_is_measured(layers: Layers, small: bool) -> bool:
    """Whether calls of this kind were measured and nearly all of the sizes above are theirs to the byte."""
    if layers.packed:
        return layers.kind[0] in _PACKED and not layers.projected
    return _copies(layers, small).exact and not layers.projected


def _copies(layers: Layers, small: bool) -> _Copies:
    return (_SMALL_COPIES if small else _COPIES)[layers.kind]


def takes_small_algorithm(mode: int, hidden: int, *, forward: bool) -> bool:
    """Whether PyTorch asks cuDNN for `PERSIST_STATIC_SMALL_H` (aten/src/ATen/native/cudnn/RNN.cpp,
    `use_rnn_persist_small_h`)."""
    if mode in (RELU, TANH):
        return hidden <= (384 if forward else 256)
    return hidden <= (192 if forward else 128)


def dropout_state_bytes(sms: int, threads_per_sm: int) -> int:
    """The random states that dropout between layers keeps, one for each thread the card can run."""
    return sms * threads_per_sm * _CURAND_STATE


def _up(value: int, to: int) -> int:
    return -(-value // to) * to
