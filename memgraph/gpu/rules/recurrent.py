"""Recurrent layers through cuDNN: contiguous inputs, workspaces, and the order in which it all comes and goes.

Source: aten/src/ATen/native/cudnn/RNN.cpp (`_cudnn_rnn`, `_cudnn_rnn_backward`, `_cudnn_rnn_backward_input`,
`_cudnn_rnn_backward_weight`). Measured on an H200: `tests/data/ops_h200_layers.json.gz`.
"""

from __future__ import annotations

from collections.abc import Sequence

from memgraph.gpu.call import Call, Steps, TensorMeta
from memgraph.gpu.recurrent import Layers, takes_small_algorithm, workspace_bytes, workspace_is_measured
from memgraph.gpu.rules.layout import Plan, permuted
from memgraph.gpu.rules.reductions import Version, sum_scratch
from memgraph.gpu.spec import GpuSpec


def layers_of(source: TensorMeta, settings: Sequence[object], *, packed: Sequence[int]) -> Layers:
    """From `(mode, hidden_size, proj_size, num_layers, batch_first, dropout, train, bidirectional)` and the input as
    the op is given it."""
    mode, hidden, projected, layers, batch_first, _, _, bidirectional = settings
    if packed:
        steps, batch = len(packed), packed[0]
    else:
        steps, batch = source.shape[1::-1] if batch_first else source.shape[:2]
    return Layers(
        int(mode), source.shape[-1], int(hidden), int(projected), int(layers), 2 if bidirectional else 1, steps, batch,  # type: ignore[call-overload]
        source.itemsize, sum(packed),
    )  # fmt: skip


def _forward(call: Call, gpu: GpuSpec, version: Version) -> Steps:
    """`_cudnn_rnn(input, weight, weight_stride0, weight_buf, hx, cx, mode, hidden_size, proj_size, num_layers,
    batch_first, dropout, train, bidirectional, batch_sizes, dropout_state)`: output, hy, cy, reserve, flat weights."""
    source, flat, cell, train = call.args[0], call.args[3], call.args[5], call.args[12]
    states = 2 if cell is None else 3
    plan = Plan(call)
    plan.contiguous(_by_step(source, call.args[10], call.args[14]), "contiguous input")
    for index in range(states):
        plan.output(index)
    if flat is None:
        plan.output(states + bool(train))
    layers = layers_of(source, call.args[6:14], packed=call.args[14])
    workspace = _workspace(
        plan, layers, source, call.args[14], gpu, forward=True, dropout=bool(train and call.args[11])
    )
    if train:
        plan.output(states)
    plan.release(workspace)
    return plan.steps()


def _backward(call: Call, gpu: GpuSpec, version: Version) -> Steps:
    """`_cudnn_rnn_backward(input, weight, weight_stride0, weight_buf, hx, cx, output, grad_output, grad_hy, grad_cy,
    mode, …, batch_sizes, dropout_state, reserve, output_mask)`: gradients of the input, hx, cx, and the weights."""
    source, hidden, cell, result = call.args[0], call.args[4], call.args[5], call.args[6]
    gradients, batch_first, packed = call.args[7:10], call.args[14], call.args[18]
    plan = Plan(call)
    for gradient, like in zip(gradients, (result, hidden, cell), strict=True):
        if gradient is None and like is not None:
            plan.temporary(like.nbytes, "zero gradient")
    layers = layers_of(source, call.args[10:18], packed=packed)
    x = _by_step(source, batch_first, packed)
    copy = plan.contiguous(x, "contiguous input")
    given = gradients[0] and _by_step(gradients[0], batch_first, packed)
    gradient_copy = plan.contiguous(given, "contiguous gradient")
    plan.output(0)
    state_copies = [plan.contiguous(state, "contiguous gradient of a state") for state in gradients[1:]]
    plan.output(1)
    if cell is not None:
        plan.output(2)
    dropout = bool(call.args[15] and call.args[16])
    workspace = _workspace(plan, layers, source, packed, gpu, forward=False, dropout=dropout)
    plan.release(workspace, *reversed(state_copies), gradient_copy, copy)
    if call.args[21][3]:
        copy = plan.contiguous(x, "contiguous input")
        plan.outputs(2 if cell is None else 3)
        plan.release(_workspace(plan, layers, source, packed, gpu, forward=False, dropout=dropout), copy)
    return plan.steps()


def _by_step(tensor: TensorMeta, batch_first: bool, packed: Sequence[int]) -> TensorMeta:
    """Steps before sequences, as cuDNN reads it."""
    return permuted(tensor, (1, 0, 2)) if batch_first and not packed else tensor


def _workspace(
    plan: Plan, layers: Layers, source: TensorMeta, packed: Sequence[int], gpu: GpuSpec, *, forward: bool, dropout: bool
) -> int:
    own_algorithm = layers.projected or packed or source.dtype == "float64"
    small = not own_algorithm and takes_small_algorithm(layers.mode, layers.hidden, forward=forward)
    small = small and source.dtype != "bfloat16"  # cuDNN's sizes are those of the standard algorithm there
    known = gpu.capability == (9, 0) and workspace_is_measured(layers)
    name = "cuDNN workspace" if known else "cuDNN workspace (estimate)"
    return plan.temporary(workspace_bytes(layers, small, dropout), name)


def _cell(call: Call, gpu: GpuSpec, version: Version) -> Steps:
    """`_thnn_fused_lstm_cell`, `_thnn_fused_gru_cell` (aten/src/ATen/native/cuda/RNN.cu): what the backward needs comes
    first and is returned last."""
    plan = Plan(call)
    last = len(call.outputs) - 1
    plan.output(last)
    for index in range(last):
        plan.output(index)
    return plan.steps()


def _cell_backward(call: Call, gpu: GpuSpec, version: Version) -> Steps:
    """The gradients of the gates and the state, then sums over the batch for the biases."""
    plan = Plan(call)
    biases = [index for index, output in enumerate(call.outputs) if len(output.shape) == 1]
    for index in range(len(call.outputs)):
        plan.output(index)
        if index not in biases:
            continue
        sum_scratch(plan, call.outputs[0], (0,), False, gpu)
    return plan.steps()


RULES = {
    "_cudnn_rnn": _forward,
    "_cudnn_rnn_backward": _backward,
    "_thnn_fused_lstm_cell": _cell,
    "_thnn_fused_gru_cell": _cell,
    "_thnn_fused_lstm_cell_backward_impl": _cell_backward,
    "_thnn_fused_gru_cell_backward": _cell_backward,
}
