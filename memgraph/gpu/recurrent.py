"""Sizes of what cuDNN's recurrent layers need: the flat weights, the reserve space, the workspace, the dropout state.

cuDNN answers for these itself (`cudnnGetRNNWeightSpaceSize`, `cudnnGetRNNTempSpaceSizes`, `cudnnDropoutGetStatesSize`),
so what is written here was read off an H200 with cuDNN 9.19 (`tests/data/ops_h200_layers.json.gz`: LSTM, GRU and RNN,
small, deep, bidirectional, bf16, odd and wide; and the recorded `lstm` and `gru` of `benchmarks/workloads/loops.py`).
All sizes in bytes.
"""

from __future__ import annotations

from dataclasses import dataclass

_MIB = 2**20
RELU, TANH, LSTM, GRU = range(4)
"""cuDNN's numbers of the kinds, which `aten::_cudnn_rnn` takes as `mode`."""

_GATES = {RELU: 1, TANH: 1, LSTM: 4, GRU: 3}
_RESERVED = {RELU: 1, TANH: 1, LSTM: 5, GRU: 6}
"""Values that the reserve keeps for each hidden element: an LSTM's gates and cell, six for a GRU."""
_CURAND_STATE = 24
"""Bytes of a random state; cuDNN keeps one for each thread that the card can run: 132 x 2048 x 24 = 6,488,064 on an
H200."""
_SMALL_EXTRA = {RELU: 10, TANH: 10, LSTM: 16, GRU: 15}
"""Copies of the hidden sequence beyond the standard algorithm's that the one for small hidden sizes takes; the measured
cases lie between 9 and 10.8, 15.5 and 16, 14 and 15.8."""


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
    """Sequences; a packed batch counts as padded."""
    itemsize: int

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
    for dropout between layers, 256 bytes more."""
    states = layers.steps * layers.batch * layers.hidden * layers.directions
    values = (_RESERVED[layers.mode] * layers.layers + layers.layers - 1) * states * layers.itemsize
    masks = (layers.layers - 1) * _up(_up(states, 8) // 8, 32) if dropout else 0
    return _up(values, 64) + masks + 256


def workspace_bytes(layers: Layers, small: bool) -> int:
    """Scratch of one call: 8 MiB a layer and direction, a copy of the weights, and copies of the input's and the hidden
    sequence, counted off the measured sizes."""
    state = layers.batch * layers.hidden * layers.itemsize
    source = layers.batch * layers.inputs * layers.itemsize
    hidden_copies, input_copies, states = _copies(layers)
    size = (8 * _MIB + states * state) * layers.layers * layers.directions + layers.matrix_elements * layers.itemsize
    size += layers.steps * (hidden_copies * state + input_copies * source)
    return size + (layers.steps * state * _SMALL_EXTRA[layers.mode] if small else 0)


def workspace_is_measured(layers: Layers, small: bool) -> bool:
    """Whether calls of this kind were measured and the sizes above are theirs, to within a kilobyte."""
    if small or layers.projected:
        return False
    if layers.mode == LSTM:
        return layers.directions == 1 and layers.layers <= 2
    return layers.mode == GRU and layers.directions == 2 and layers.layers > 1


def _copies(layers: Layers) -> tuple[int, int, int]:
    """(hidden sequences, input sequences, hidden states a layer) in the workspace."""
    if layers.mode == LSTM:
        return (4, 3, 10) if layers.directions == 1 else (13, 3, 12)
    if layers.directions == 2:
        return 12, 2, 7
    return (4, 2, 5) if layers.layers == 1 else (4, 1, 5)


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
