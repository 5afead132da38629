"""Fused attention: seeds, statistics, split results and accumulators.

Sources: aten/src/ATen/native/transformers/cuda/attention.cu and attention_backward.cu;
cuda/flash_attn/flash_api.cpp (`set_params_splitkv`, `num_splits_heuristic`, `mha_bwd`);
cuda/mem_eff_attention/kernel_backward.h (`workspace_size`, `GradQTempStorage`); aten/src/ATen/native/cudnn/MHA.cpp.
cuDNN's own workspaces were measured on an H200 with cuDNN 9.19: `tests/data/ops_h200_layers.json.gz`.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING

from memgraph.gpu.call import Call, Steps, TensorMeta
from memgraph.gpu.rules.layout import Plan, ceil_div, permuted, tensors

if TYPE_CHECKING:
    from memgraph.gpu.specs import GpuSpec

Version = tuple[int, int]
Rule = Callable[[Call, "GpuSpec", Version], "Steps | None"]
_FLOAT = 4
_CUDNN_ALIGNMENT = 256
"""Bytes that cuDNN's attention asks for whatever its size; measured."""


def _heads(tensor: TensorMeta) -> tuple[int, int, int, int]:
    """Batch, heads, length, width of a [B, H, S, D] tensor."""
    batch, heads, length, width = tensor.shape
    return batch, heads, length, width


def _cudnn_forward(call: Call, gpu: GpuSpec, version: Version) -> Steps:
    """Seed and offset, the result and its statistics (where a backward will follow), then cuDNN's workspace. The op
    returns result, statistics, seed, offset. For a single query cuDNN splits the keys and takes more (67,712 bytes for
    32 rows of 64 and 2048 keys); how much in other cases is not known."""
    plan = Plan(call)
    estimated = call.args[0].shape[2] == 1 or gpu.capability[0] != 9
    statistics = len(call.outputs) == 4
    for index in (2, 3, 0, 1) if statistics else (1, 2, 0):
        plan.output(index)
    plan.temporary(_CUDNN_ALIGNMENT, "cuDNN workspace (estimate)" if estimated else "cuDNN workspace")
    return plan.steps()


def _cudnn_backward(call: Call, gpu: GpuSpec, version: Version) -> Steps:
    """Gradients, then the query's gradient in fp32, its row sums, and with grouped heads key and value gradients for
    every query head."""
    query, key = call.args[1], call.args[2]
    batch, heads, length, width = _heads(query)
    plan = Plan(call)
    plan.outputs()
    size = batch * heads * length * (width + 1) * _FLOAT + _CUDNN_ALIGNMENT
    if key.shape[1] != heads:
        size += 2 * batch * heads * key.shape[2] * width * query.itemsize
    plan.temporary(size, "cuDNN workspace" if gpu.capability[0] == 9 else "cuDNN workspace (estimate)")
    return plan.steps()


def _flash_forward(call: Call, gpu: GpuSpec, version: Version) -> Steps:
    """Result and statistics; partial ones where the keys are split over blocks; the random state."""
    query, key = call.args[0], call.args[1]
    batch, heads, length, width = _heads(query)
    dropout = float(call.arg(3, "dropout_p", 0.0) or 0.0)
    plan = Plan(call)
    plan.output(0)
    plan.output(1)
    splits = 1 if dropout else flash_splits(batch * heads, length, key.shape[2], width, gpu.sms)
    if splits > 1:
        plan.temporary(splits * batch * heads * length * _FLOAT, "statistics of each split")
        plan.temporary(splits * batch * heads * length * _round(width, 32) * _FLOAT, "result of each split")
    plan.outputs(2)
    if dropout:
        plan.temporary(16, "random state")
    return plan.steps()


def flash_splits(rows: int, queries: int, keys: int, width: int, sms: int) -> int:
    """Into how many parts flash attention splits the keys: the fewest that keep 85 % of the best occupancy.

    Args:
        rows: batch times heads.
        sms: of the GPU; two blocks run on each.
    """
    width_of_block = 256 if width <= 64 else 128 if width <= 128 else 64
    blocks = rows * ceil_div(queries, 64)
    parts = ceil_div(keys, width_of_block)
    slots = 2 * sms
    if blocks >= 0.8 * slots:
        return 1
    candidates = [
        n for n in range(1, min(128, slots, parts) + 1) if n == 1 or ceil_div(parts, n) != ceil_div(parts, n - 1)
    ]
    efficiency = {n: (blocks * n / slots) / math.ceil(blocks * n / slots) for n in candidates}
    return next(n for n in candidates if efficiency[n] >= 0.85 * max(efficiency.values()))


def _flash_backward(call: Call, gpu: GpuSpec, version: Version) -> Steps:
    """Contiguous copies in [B, S, H, D], gradients, row sums and the query's gradient in fp32; with grouped heads key
    and value gradients for every query head."""
    grad, query, key, out = call.args[0], call.args[1], call.args[2], call.args[4]
    batch, heads, length, width = _heads(query)
    plan = Plan(call)
    for tensor, name in ((grad, "contiguous gradient"), (out, "contiguous result")):
        plan.contiguous(permuted(tensor, (0, 2, 1, 3)), name)
    plan.outputs()
    rows = batch * heads * _round(length, 128)
    plan.temporary(rows * _FLOAT, "row sums")
    plan.temporary(rows * _round(width, 32) * _FLOAT, "query gradient in fp32")
    if key.shape[1] != heads:
        for name in ("key gradient of every head", "value gradient of every head"):
            plan.temporary(batch * heads * key.shape[2] * width * query.itemsize, name)
    return plan.steps()


def _flash_rows_forward(call: Call, gpu: GpuSpec, version: Version) -> Steps | None:
    """`_flash_attention_forward(query, key, value, cum_seq_q, cum_seq_k, …)` over sequences in one row, [rows, H, D]:
    nothing is split. Source: `mha_varlen_fwd`."""
    if call.args[3] is None:
        return None
    plan = Plan(call)
    plan.outputs()
    if float(call.arg(7, "dropout_p", 0.0) or 0.0):
        plan.temporary(16, "random state")
    return plan.steps()


def _flash_rows_backward(call: Call, gpu: GpuSpec, version: Version) -> Steps | None:
    """`_flash_attention_backward(grad_out, query, key, value, out, logsumexp, cum_seq_q, …)`: as above, each sequence
    padded by 128. Source: `mha_varlen_bwd`."""
    grad, query, key, out, starts = call.args[0], call.args[1], call.args[2], call.args[4], call.args[6]
    if starts is None:
        return None
    rows, heads, width = query.shape
    plan = Plan(call)
    for tensor, name in ((grad, "contiguous gradient"), (out, "contiguous result")):
        plan.contiguous(tensor, name)
    plan.outputs()
    padded = heads * (rows + 128 * (starts.shape[0] - 1))
    plan.temporary(padded * _FLOAT, "row sums")
    plan.temporary(padded * _round(width, 32) * _FLOAT, "query gradient in fp32")
    if key.shape[1] != heads:
        for name in ("key gradient of every head", "value gradient of every head"):
            plan.temporary(key.shape[0] * heads * width * query.itemsize, name)
    return plan.steps()


def _efficient_forward(call: Call, gpu: GpuSpec, version: Version) -> Steps:
    """Result and statistics; above a head dimension of 128 the result in fp32 too."""
    query, value = call.args[0], call.args[2]
    batch, heads, length, _ = _heads(query)
    plan = Plan(call)
    plan.output(0)
    if call.arg(4, "compute_log_sumexp", False):
        plan.output(1)
    if value.shape[-1] > 128 and query.itemsize < _FLOAT:
        plan.temporary(batch * heads * length * value.shape[-1] * _FLOAT, "result in fp32")
    first = 2 if call.arg(4, "compute_log_sumexp", False) else 1
    plan.on_host(first, first + 1)  # seed and offset are on the device only while a CUDA graph is captured
    return plan.steps()


def _efficient_backward(call: Call, gpu: GpuSpec, version: Version) -> Steps:
    """The gradient as the kernel reads it, rows before heads, copied if it lies otherwise; gradients, the row sums of
    gradient times result, and the kernel's workspace."""
    grad, query, key, value = call.args[:4]
    batch, heads, length, width = _heads(query)
    plan = Plan(call)
    plan.contiguous(permuted(grad, (0, 2, 1, 3)), "contiguous gradient")
    plan.outputs()
    rows = batch * heads * length * _FLOAT
    if query.dtype == "float32":  # fp32 row sums are an ordinary product and sum, then made contiguous
        product = plan.temporary(query.nbytes, "gradient times result")
        total = plan.temporary(rows, "row sums")
        sums = plan.temporary(rows, "contiguous row sums")
        plan.release(total, product)
    else:
        sums = plan.temporary(rows, "row sums")
    size = batch * heads * efficient_workspace(length, key.shape[2], max(width, value.shape[-1]), query.itemsize)
    plan.release(sums, plan.temporary(size, "gradients in fp32"))
    return plan.steps()


def efficient_workspace(queries: int, keys: int, width: int, itemsize: int = 2) -> int:
    """Bytes for each head: the query's gradient in blocks of fp32 with 16 bytes of locks each; beyond a head dimension
    of 128 those of key and value too, which no longer fit in registers. Up to 128 the blocks of halves are 128 x 128,
    those of fp32 128 x 64 (`fmha_cutlassB_f32_aligned_128x64_k128_sm80`; an H200's recording has the same)."""
    rows = 128 if 64 < width <= 128 else 64
    columns = 64 if width <= 64 or (itemsize == _FLOAT and width <= 128) else 128
    blocks = ceil_div(queries, rows) * ceil_div(width, columns)
    size = blocks * (16 + rows * columns * _FLOAT)
    if width > 128:
        size += 2 * _round(keys, 64) * _round(width, 32) * _FLOAT
    return size


def _round(value: int, to: int) -> int:
    return ceil_div(value, to) * to


def _unless_empty(rule: Rule) -> Rule:
    """Where there is nothing to attend to, no kernel runs."""

    def ruled(call: Call, gpu: GpuSpec, version: Version) -> Steps | None:
        return rule(call, gpu, version) if all(tensor.numel for tensor in tensors(call.args[:3])) else ()

    return ruled


RULES = {
    "_scaled_dot_product_cudnn_attention": _unless_empty(_cudnn_forward),
    "_scaled_dot_product_cudnn_attention_backward": _unless_empty(_cudnn_backward),
    "_scaled_dot_product_flash_attention": _unless_empty(_flash_forward),
    "_scaled_dot_product_flash_attention_backward": _unless_empty(_flash_backward),
    "_flash_attention_forward": _unless_empty(_flash_rows_forward),
    "_flash_attention_backward": _unless_empty(_flash_rows_backward),
    "_scaled_dot_product_efficient_attention": _unless_empty(_efficient_forward),
    "_scaled_dot_product_efficient_attention_backward": _unless_empty(_efficient_backward),
}
