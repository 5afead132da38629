"""Recurrent layers on the virtual GPU: through cuDNN, as on a real one.

`aten::lstm`, `gru`, `rnn_tanh` and `rnn_relu` are composite: on a CUDA tensor they call `aten::_cudnn_rnn`, on a
CPU-only build a loop of small ops. Ours (put in their place by `dispatch.composites_are`) do what
aten/src/ATen/native/cudnn/RNN.cpp (`_cudnn_impl`, `try_get_weight_buf`, `get_dropout_state`) and
aten/src/ATen/cudnn/AutocastRNN.cpp do around the call. The formula for the backward is torch's own on every build.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch._ops import OpOverload
from torch._subclasses.fake_tensor import FakeTensor

from memgraph.gpu.recurrent import GRU, LSTM, RELU, TANH, Layers, dropout_state_bytes, reserve_bytes
from memgraph.gpu.specs import GpuSpec
from memgraph.virtual.ops.dispatch import run_composite

aten = torch.ops.aten

_ACCEPTED = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
"""Types that cuDNN takes (aten/src/ATen/native/Cudnn.cpp)."""
_FLATTENED = (torch.float16, torch.float32, torch.float64)
"""Types whose weights modules flatten (torch/backends/cudnn/__init__.py, `CUDNN_TENSOR_DTYPES`)."""
_MODES = {"RNN_RELU": RELU, "RNN_TANH": TANH, "LSTM": LSTM, "GRU": GRU}

Cells = tuple[Tensor, Tensor | None]
"""Hidden state, and an LSTM's cell state."""


class Recurrent:
    """The recurrent layers of one virtual GPU: what they share is the dropout state.

    Args:
        gpu: the card.
    """

    def __init__(self, gpu: GpuSpec) -> None:
        self._gpu = gpu
        self._dropout_state: Tensor | None = None

    def composites(self) -> dict[OpOverload, Callable[..., Any]]:
        """What recurrent layers of CUDA tensors do."""
        modes = {aten.lstm: LSTM, aten.gru: GRU, aten.rnn_tanh: TANH, aten.rnn_relu: RELU}
        return {packet.input: self._padded(packet.input, mode) for packet, mode in modes.items()} | {
            packet.data: self._packed(packet.data, mode) for packet, mode in modes.items()
        }

    def _padded(self, func: OpOverload, mode: int) -> Callable[..., Any]:
        def run(
            source: Tensor, hidden: Any, params: Sequence[Tensor], has_biases: bool, layers: int, dropout: float,
            train: bool, bidirectional: bool, batch_first: bool,
        ) -> Any:  # fmt: skip
            arguments = (params, has_biases, layers, dropout, train, bidirectional)
            if not _acceptable(source):
                return run_composite(func, source, hidden, *arguments, batch_first)
            return _packed_up(mode, self._run(source, (), hidden, *arguments, batch_first, mode))

        return run

    def _packed(self, func: OpOverload, mode: int) -> Callable[..., Any]:
        def run(
            source: Tensor, sizes: Tensor, hidden: Any, params: Sequence[Tensor], has_biases: bool, layers: int,
            dropout: float, train: bool, bidirectional: bool,
        ) -> Any:  # fmt: skip
            arguments = (params, has_biases, layers, dropout, train, bidirectional)
            if not _acceptable(source):
                return run_composite(func, source, sizes, hidden, *arguments)
            return _packed_up(mode, self._run(source, sizes.tolist(), hidden, *arguments, False, mode))

        return run

    def _run(
        self, source: Tensor, sizes: Sequence[int], hidden: Any, params: Sequence[Tensor], has_biases: bool,
        layers: int, dropout: float, train: bool, bidirectional: bool, batch_first: bool, mode: int,
    ) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
        hx, cx = hidden if mode == LSTM else (hidden, None)
        width = hx.shape[2] if cx is None else cx.shape[2]
        projected = hx.shape[2] if hx.shape[2] != width else 0
        shape = Layers(mode, source.shape[-1], width, projected, layers, 2 if bidirectional else 1, 0, 0, 0)
        flat = _flat_weights(params, shape, has_biases)
        state = self._state(dropout, train, source.device)
        source, hx, cx, params, flat = _under_autocast(source, hx, cx, params, flat, shape, has_biases)
        each = (4 if has_biases else 2) + bool(projected)
        with torch.autocast("cuda", enabled=False):
            output, hy, cy, _, _ = aten._cudnn_rnn(
                source, params, each, flat, hx, cx, mode, width, projected, layers, batch_first, dropout, train,
                bidirectional, sizes, state,
            )  # fmt: skip
        return output, hy, cy

    def _state(self, dropout: float, train: bool, device: torch.device) -> Tensor | None:
        """The random states of the dropout between layers: made when first needed, from a seed drawn on the device."""
        if not train or dropout <= 0:
            return self._dropout_state
        if self._dropout_state is None:
            with torch.no_grad():
                torch.empty((), dtype=torch.int64, device=device).random_()
                self._dropout_state = aten._cudnn_init_dropout_state(
                    dropout, train, 0, dtype=torch.uint8, device=device
                )
        return self._dropout_state

    def kernels(self) -> dict[OpOverload, Callable[..., Any]]:
        """What the ops return on this card, for tensors without values."""
        return {
            aten._cudnn_rnn.default: _forward_result,
            aten._cudnn_rnn_backward.default: _backward_result,
            aten._cudnn_init_dropout_state.default: self._new_state,
        }

    def _new_state(self, *_: Any, device: Any = None, **__: Any) -> Tensor:
        size = dropout_state_bytes(self._gpu.sms, self._gpu.max_threads_per_sm)
        return torch.empty(size, dtype=torch.uint8, device=device)


def _packed_up(mode: int, results: tuple[Tensor, Tensor, Tensor]) -> tuple[Tensor, ...]:
    return results if mode == LSTM else results[:2]


def _acceptable(source: Tensor) -> bool:
    return torch.backends.cudnn.enabled and source.dtype in _ACCEPTED and source.numel() > 0


def _flat_weights(params: Sequence[Tensor], shape: Layers, has_biases: bool) -> Tensor | None:
    """The buffer that the parameters lie in, in cuDNN's order; None where they do not."""
    first = params[0]
    storage = first.untyped_storage()
    if any(param.untyped_storage()._cdata != storage._cdata for param in params):
        return None
    places = [place for place, _ in weight_places(shape, has_biases)]
    if [param.storage_offset() for param in params] != places:
        return None
    return first.detach().as_strided((shape.weight_elements,), (1,), 0)


def weight_places(shape: Layers, has_biases: bool) -> list[tuple[int, tuple[int, ...]]]:
    """Offset in elements and shape of each parameter in the flat weights, in the module's order: all matrices lie
    before all biases."""
    places: list[tuple[int, tuple[int, ...]]] = []
    matrix, bias, rows = 0, shape.matrix_elements, shape.gates * shape.hidden
    for own in shape.matrix_shapes():
        matrices: list[tuple[int, tuple[int, ...]]] = []
        for rows_columns in own:
            matrices.append((matrix, rows_columns))
            matrix += rows_columns[0] * rows_columns[1]
        biases: list[tuple[int, tuple[int, ...]]] = [(bias, (rows,)), (bias + rows, (rows,))]
        bias += 2 * rows
        places += matrices[:2] + (biases if has_biases else []) + matrices[2:]
    return places


def _under_autocast(
    source: Tensor, hx: Tensor, cx: Tensor | None, params: Sequence[Tensor], flat: Tensor | None, shape: Layers,
    has_biases: bool,
) -> tuple[Tensor, Tensor, Tensor | None, Sequence[Tensor], Tensor | None]:  # fmt: skip
    """Autocast's own wrapper of `_cudnn_rnn`: weights are cast and flattened anew at each call."""
    lower = torch.get_autocast_dtype("cuda")
    if not torch.is_autocast_enabled("cuda") or params[0].dtype is torch.float64:
        return source, hx, cx, params, flat
    if params[0].dtype is not lower:
        flat, params = _cast_flat(params, shape, has_biases, lower)
    return source.to(lower), hx.to(lower), None if cx is None else cx.to(lower), params, flat


def _cast_flat(
    params: Sequence[Tensor], shape: Layers, has_biases: bool, dtype: torch.dtype
) -> tuple[Tensor, list[Tensor]]:
    """The weights in a new flat buffer of another type; gradients flow back through the copies."""
    flat = torch.zeros(shape.weight_elements, dtype=dtype, device=params[0].device)
    copies = []
    for param, (place, size) in zip(params, weight_places(shape, has_biases), strict=True):
        copies.append(_view(flat, place, size).detach().copy_(param))
    return flat, copies


def _view(flat: Tensor, place: int, size: tuple[int, ...]) -> Tensor:
    return flat.as_strided(size, (size[1], 1) if len(size) == 2 else (1,), place)


def _forward_result(
    source: Tensor, weight: Sequence[Tensor], _each: int, flat: Tensor | None, hx: Tensor, cx: Tensor | None, mode: int,
    hidden: int, projected: int, layers: int, batch_first: bool, dropout: float, train: bool, bidirectional: bool,
    sizes: Sequence[int], _state: Tensor | None,
) -> tuple[Tensor, ...]:  # fmt: skip
    directions = 2 if bidirectional else 1
    steps, batch = (len(sizes), sizes[0]) if sizes else source.shape[1::-1] if batch_first else source.shape[:2]
    itemsize, packed = source.element_size(), sum(sizes)
    shape = Layers(mode, source.shape[-1], hidden, projected, layers, directions, steps, batch, itemsize, packed)
    width = shape.outputs * directions
    output = source.new_empty((source.shape[0], width) if sizes else (steps, batch, width))
    if batch_first and not sizes:
        output = output.transpose(0, 1)
    hy = hx.new_empty((layers * directions, batch, shape.outputs))
    cy = hx.new_empty(0) if cx is None else cx.new_empty((layers * directions, batch, hidden))
    reserve = source.new_empty(reserve_bytes(shape, dropout) if train else 0, dtype=torch.uint8)
    return output, hy, cy, reserve, source.new_empty(shape.weight_elements) if flat is None else flat


def _backward_result(
    source: Tensor, weight: Sequence[Tensor], each: int, flat: Tensor, hx: Tensor, cx: Tensor | None, output: Tensor,
    grad_output: Tensor | None, grad_hy: Tensor | None, grad_cy: Tensor | None, mode: int, hidden: int, projected: int,
    layers: int, batch_first: bool, dropout: float, train: bool, bidirectional: bool, sizes: Sequence[int],
    state: Tensor | None, reserve: Tensor, mask: Sequence[bool],
) -> tuple[Tensor | None, Tensor | None, Tensor | None, list[Tensor]]:  # fmt: skip
    if batch_first and not sizes:
        steps_first = source.transpose(0, 1)
        gradient = steps_first.new_empty(steps_first.shape).transpose(0, 1)
    else:
        gradient = source.new_empty(source.shape)
    shape = Layers(mode, source.shape[-1], hidden, projected, layers, 2 if bidirectional else 1, 0, 0, 0)
    return (
        gradient,
        hx.new_empty(hx.shape),
        None if cx is None else cx.new_empty(cx.shape),
        _weight_gradients(weight, flat, shape, has_biases=each > 3) if mask[3] else [],
    )


def _weight_gradients(weight: Sequence[Tensor], flat: Tensor, shape: Layers, *, has_biases: bool) -> list[Tensor]:
    """Views of one flat buffer; without biases cuDNN's layout is another, and each gradient is a copy."""
    if not has_biases:
        return [param.new_empty(param.shape) for param in weight]
    gradients = flat.new_empty(flat.shape)
    return [_view(gradients, place, size) for place, size in weight_places(shape, has_biases)]


def flatten_parameters(self: torch.nn.RNNBase, become: Callable[[Tensor, Tensor], None]) -> bool:
    """`RNNBase.flatten_parameters` for fake tensors: the parameters move into one buffer. False if they stay."""
    params = [param for param in self._flat_weights if isinstance(param, FakeTensor)]
    if not len(params) == len(self._flat_weights) == len(self._flat_weights_names):
        return False
    if not torch.backends.cudnn.enabled or not all(_can_be_flat(param, params[0].dtype) for param in params):
        return False
    if len({(p.untyped_storage()._cdata, p.storage_offset()) for p in params}) != len(params):
        return False
    shape = Layers(
        _MODES[self.mode], self.input_size, self.hidden_size, self.proj_size, self.num_layers,
        2 if self.bidirectional else 1, 0, 0, 0,
    )  # fmt: skip
    with torch.no_grad():
        flat = torch.zeros(shape.weight_elements, dtype=params[0].dtype, device=params[0].device)
        views = [_view(flat, place, size) for place, size in weight_places(shape, self.bias)]
        for param, view in zip(params, views, strict=True):
            view.copy_(param)
    for param, view in zip(params, views, strict=True):
        become(param, view)
    return True


def _can_be_flat(param: Tensor, dtype: torch.dtype) -> bool:
    return param.dtype is dtype and param.is_cuda and param.dtype in _FLATTENED
