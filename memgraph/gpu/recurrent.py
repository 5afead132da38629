"""Sizes of what cuDNN's recurrent layers need: the flat weights, the reserve space, the workspace, the dropout state.

cuDNN answers for these itself (`cudnnGetRNNWeightSpaceSize`, `cudnnGetRNNTempSpaceSizes`, `cudnnDropoutGetStatesSize`),
but only through a handle, which needs a card; so what is written here was read off an H200 with cuDNN 9.19: through its
handle in 48,564 settings of LSTM, GRU and RNN in three types (`benchmarks/single_ops/recurrent_sizes.py`), of which the
reserves are these in all and the workspaces in 48,502, and through PyTorch in 443 others
(`tests/data/recurrent_h200.json.gz`), where 880 of 886 workspaces are. All sizes in bytes.

A workspace is the largest of what two or three moments of the work hold (`_MOMENTS`): copies of the hidden states and
of the input for each step, and hidden states for each layer. Several layers in one direction work on some steps at a
time.
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


_GATES_KEPT = 256
"""Steps whose gates' gradients are there at once."""


class _Moment(NamedTuple):
    """What a workspace holds at once, besides the weights."""

    hidden: int
    """Hidden states of one direction, for each step."""
    inputs: int
    """The input, for each step."""
    states: int
    """Hidden states, for each layer and direction."""
    at_a_time: bool = False
    """Whether those of the steps that layers work on at a time come on top."""
    gates: int = 0
    """Hidden states for each step of so many as have their gates' gradients at once."""
    dropped: bool = False
    """Whether dropout between layers needs one more hidden state for each step."""


_Moments = dict[tuple[str, bool, bool], tuple[_Moment, ...]]
_MOMENTS: _Moments = {  # by kind, whether in two directions, whether there are several layers
    ("RNN", False, False): (_Moment(4, 2, 5), _Moment(3, 3, 5)),
    ("RNN", False, True): (_Moment(3, 2, 5, True), _Moment(2, 3, 5, True)),
    ("RNN", True, False): (_Moment(10, 2, 7), _Moment(6, 6, 7)),
    ("RNN", True, True): (_Moment(12, 2, 7), _Moment(8, 6, 7)),
    ("LSTM", False, False): (_Moment(1, 1, 10, gates=4, dropped=True), _Moment(4, 2, 11), _Moment(3, 3, 11)),
    ("LSTM", False, True): (_Moment(1, 1, 10, gates=4, dropped=True), _Moment(3, 2, 11, True), _Moment(2, 3, 11, True)),
    ("LSTM", True, False): (_Moment(14, 1, 12), _Moment(6, 6, 13)),
    ("LSTM", True, True): (_Moment(14, 1, 12), _Moment(12, 2, 13), _Moment(8, 6, 13)),
    ("GRU", False, False): (_Moment(4, 2, 5), _Moment(3, 3, 5)),
    ("GRU", False, True): (_Moment(1, 1, 5, gates=3, dropped=True), _Moment(3, 2, 5, True), _Moment(2, 3, 5, True)),
    ("GRU", True, False): (_Moment(12, 1, 7), _Moment(6, 6, 7)),
    ("GRU", True, True): (_Moment(12, 2, 7), _Moment(8, 6, 7)),
}  # fmt: skip
_SMALL_MOMENTS: _Moments = {
    ("RNN", False, False): (_Moment(13, 2, 6), _Moment(12, 3, 6)),
    ("RNN", False, True): (_Moment(14, 2, 6), _Moment(13, 3, 6)),
    ("RNN", True, False): (_Moment(19, 2, 7), _Moment(15, 6, 7)),
    ("RNN", True, True): (_Moment(21, 2, 7), _Moment(17, 6, 7)),
    ("LSTM", False, False): (_Moment(21, 1, 8), _Moment(15, 3, 12)),
    ("LSTM", False, True): (_Moment(21, 1, 8, dropped=True), _Moment(16, 3, 12)),
    ("LSTM", True, False): (_Moment(30, 1, 9), _Moment(18, 6, 13)),
    ("LSTM", True, True): (_Moment(30, 1, 9), _Moment(20, 6, 13)),
    ("GRU", False, False): (_Moment(18, 2, 6), _Moment(17, 3, 6)),
    ("GRU", False, True): (_Moment(19, 2, 6), _Moment(18, 3, 6)),
    ("GRU", True, False): (_Moment(24, 2, 7), _Moment(20, 6, 7)),
    ("GRU", True, True): (_Moment(26, 2, 7), _Moment(22, 6, 7)),
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
    """Scratch of one call: 8 MiB a layer and direction, a copy of the weights, the lengths, and the largest of its
    moments."""
    if layers.packed and layers.kind[0] in _PACKED:
        return _packed_bytes(layers, dropout)
    stack = layers.layers * layers.directions
    fixed = 8 * _MIB * stack + _aligned(layers.matrix_elements * layers.itemsize)
    moments = (_SMALL_MOMENTS if small else _MOMENTS)[layers.kind]
    held = max(_held(moment, layers, dropout) for moment in moments)
    return fixed + _ALWAYS + _aligned(_LENGTHS * layers.batch) + held


def _held(moment: _Moment, layers: Layers, dropout: bool) -> int:
    steps, row = layers.steps, layers.batch * layers.itemsize
    states = (moment.hidden + (dropout and moment.dropped and layers.layers > 1)) * steps
    states += moment.gates * min(steps, _GATES_KEPT) + moment.states * layers.layers * layers.directions
    states += moment.at_a_time * min(steps, _at_a_time(layers))
    return _aligned(states * row * layers.hidden + moment.inputs * _aligned(steps * row * layers.inputs))


def _at_a_time(layers: Layers) -> int:
    """Steps that layers in one direction work on together: a power of two for each, fewer the more sequences there
    are. For 17 to 96 sequences eight are seen with 200 steps and four with up to 100."""
    sequences = layers.batch
    if sequences <= 16:
        each = 32 if sequences == 1 else 16 if sequences <= 8 else 8
    else:
        each = 2 if sequences > 96 else 8 if layers.steps >= 200 else 4
    return max(each, 8) + each * layers.layers


def _packed_bytes(layers: Layers, dropout: bool) -> int:
    """The same for a packed batch, which needs no copies by sequence."""
    hidden, states = _PACKED[layers.kind[0]][layers.directions - 1]
    hidden += dropout and layers.layers > 1 and layers.directions == 1
    row = layers.hidden * layers.itemsize
    size = (8 * _MIB + states * layers.batch * row) * layers.layers * layers.directions
    return size + layers.matrix_elements * layers.itemsize + layers.packed * hidden * row + _ALWAYS


def workspace_is_measured(layers: Layers) -> bool:
    """Whether calls of this kind were measured and nearly all of the sizes above are theirs to the byte."""
    return not layers.projected and (not layers.packed or layers.kind[0] in _PACKED)


def takes_small_algorithm(mode: int, hidden: int, *, forward: bool) -> bool:
    """Whether PyTorch asks cuDNN for `PERSIST_STATIC_SMALL_H` (aten/src/ATen/native/cudnn/RNN.cpp,
    `use_rnn_persist_small_h`)."""
    if mode in (RELU, TANH):
        return hidden <= (384 if forward else 256)
    return hidden <= (192 if forward else 128)


def dropout_state_bytes(sms: int, threads_per_sm: int) -> int:
    """The random states that dropout between layers keeps, one for each thread the card can run."""
    return sms * threads_per_sm * _CURAND_STATE


def _aligned(value: int) -> int:
    return _up(value, 32)


def _up(value: int, to: int) -> int:
    return -(-value // to) * to
