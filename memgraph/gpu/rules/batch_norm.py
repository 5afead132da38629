"""cuDNN's batch norm: results and statistics, and with the channels last partial sums for each tile of rows.

Source: aten/src/ATen/native/cudnn/BatchNorm.cpp. The sizes were read off 24 shapes of a residual network in
channels-last under fp16 autocast (benchmarks/recordings/workloads), and off single calls in fp32 and with the channels
first, which take nothing; all on an H200 with torch 2.11 and cuDNN 9.19. Elsewhere they are an estimate. The reserve
was empty in all of them.
"""

from __future__ import annotations

from memgraph.gpu.call import Call, Steps, TensorMeta
from memgraph.gpu.rules.layout import Plan, ceil_div, permuted
from memgraph.gpu.specs import GpuSpec

Version = tuple[int, int]

_CHANNELS = 64
"""Channels of a tile."""
_ROWS, _ROWS_OF_FLOATS, _ROWS_BACKWARD = 160, 64, 96
_PAIR = 8
"""Two sums in fp32 for each channel of a tile."""
_LOCK = 4


def _forward(call: Call, gpu: GpuSpec, version: Version) -> Steps:
    """`cudnn_batch_norm(input, weight, bias, running_mean, running_var, training, factor, epsilon)`."""
    plan, source = Plan(call), call.args[0]
    plan.outputs()
    if call.args[5] and _channels_last(source):
        plan.temporary(forward_workspace(*_tall(source), source.itemsize), _name(source, gpu))
    return plan.steps()


def _backward(call: Call, gpu: GpuSpec, version: Version) -> Steps:
    """`cudnn_batch_norm_backward(input, grad_output, weight, …)`: the gradient in the input's order of dimensions."""
    plan, (source, grad) = Plan(call), call.args[:2]
    last = _channels_last(source)
    if last != _channels_last(grad) or not (last or grad.is_contiguous):
        plan.temporary(grad.nbytes, "gradient in the input's order")
    plan.outputs()
    if last:
        plan.temporary(backward_workspace(*_tall(source)), _name(source, gpu))
    return plan.steps()


def forward_workspace(channels: int, rows: int, itemsize: int = 2) -> int:
    """Bytes; `rows` are samples times places."""
    tiles = ceil_div(rows, _ROWS if itemsize == 2 else _ROWS_OF_FLOATS)
    groups = ceil_div(channels, _CHANNELS)
    return 1072 + groups * (tiles * (_CHANNELS * _PAIR + _LOCK) + _LOCK)


def backward_workspace(channels: int, rows: int) -> int:
    """Bytes; `rows` are samples times places."""
    groups = ceil_div(channels, _CHANNELS)
    return 1056 + groups * (ceil_div(rows, _ROWS_BACKWARD) * _CHANNELS * _PAIR + _LOCK)


def _tall(source: TensorMeta) -> tuple[int, int]:
    channels = source.shape[1]
    return channels, source.numel // max(channels, 1)


def _channels_last(tensor: TensorMeta) -> bool:
    rank = len(tensor.shape)
    return rank in (4, 5) and not tensor.is_contiguous and permuted(tensor, (0, *range(2, rank), 1)).is_contiguous


def _name(source: TensorMeta, gpu: GpuSpec) -> str:
    measured = gpu.capability == (9, 0) and source.dtype in ("float16", "float32")
    return "cuDNN workspace" if measured else "cuDNN workspace (estimate)"


RULES = {"cudnn_batch_norm": _forward, "cudnn_batch_norm_backward": _backward}
