"""Layer, RMS, group and batch norm: contiguous copies of what they read, and partial sums over rows or blocks.

Sources: aten/src/ATen/native/cuda/layer_norm_kernel.cu (`layer_norm_cuda`, `layer_norm_backward_cuda`,
`LaunchGammaBetaBackwardCUDAKernel`), aten/src/ATen/native/group_norm.cpp and cuda/group_norm_kernel.cu,
aten/src/ATen/native/cuda/Normalization.cu and Normalization.cuh. cuDNN's batch norm is in batch_norm.py.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from memgraph.gpu.call import Call, Steps, TensorMeta
from memgraph.gpu.rules.layout import (
    INT32_MAX,
    ITEMSIZE,
    Plan,
    accumulate_type,
    ceil_div,
    dense,
    permuted,
)
from memgraph.gpu.rules.reductions import Version, sum_scratch
from memgraph.gpu.spec import GpuSpec

_TILE = 32
"""Columns of a thread block in the gamma and beta backward."""


def _layer_norm(call: Call, gpu: GpuSpec, version: Version) -> Steps:
    """`native_layer_norm(input, normalized_shape, weight, bias, eps)` and `_fused_rms_norm`, which has no bias:
    contiguous copies of input and parameters, then the result, mean and rstd."""
    plan = Plan(call)
    plan.contiguous(call.args[0], "contiguous input")
    for position in (2, 3) if call.op == "native_layer_norm" else (2,):
        parameter = call.args[position] if len(call.args) > position else None
        plan.contiguous(parameter if isinstance(parameter, TensorMeta) else None, "contiguous parameter")
    plan.outputs()
    return plan.steps()


def _layer_norm_backward(call: Call, gpu: GpuSpec, version: Version) -> Steps:
    """`native_layer_norm_backward(grad_out, input, normalized_shape, mean, rstd, weight, bias, output_mask)`."""
    mask = call.arg(7, "output_mask", (True, True, True))
    return _norm_backward(call, gpu, call.arg(5, "weight"), call.arg(6, "bias"), mask, two_sums=True)


def _rms_norm_backward(call: Call, gpu: GpuSpec, version: Version) -> Steps:
    """`_fused_rms_norm_backward(grad_out, input, normalized_shape, rstd, weight, output_mask)`: no beta, no mean."""
    mask = call.arg(5, "output_mask", (True, True))
    return _norm_backward(call, gpu, call.arg(4, "weight"), None, mask, two_sums=False)


def _norm_backward(
    call: Call, gpu: GpuSpec, weight: TensorMeta | None, bias: TensorMeta | None, mask: Sequence[bool], two_sums: bool
) -> Steps:
    """Copies, gradients, and for tall inputs one partial sum for each block of rows, added up at the end."""
    plan, grad, source = Plan(call), call.args[0], call.args[1]
    for tensor in (source, weight, bias):
        plan.contiguous(tensor, "contiguous copy")
    columns = math.prod(call.args[2])
    rows = source.numel // max(columns, 1)
    wanted = [bool(wish) for wish in mask[1 : 3 if two_sums else 2]]
    if not any(wanted) or not _is_tall(rows, columns, gpu):
        plan.outputs()
        plan.contiguous(grad, "contiguous gradient")
        return plan.steps()
    first = int(bool(mask[0]))
    if first:
        plan.output(0)
    dtype = weight.dtype if weight else source.dtype
    unused = [plan.temporary(columns * ITEMSIZE[dtype], "gradient before the last sum") for wish in wanted if wish]
    plan.contiguous(grad, "contiguous gradient")
    _sum_blocks(plan, dense((_block_rows(rows, columns), columns), dtype), unused, first, gpu)
    return plan.steps()


def _is_tall(rows: int, columns: int, gpu: GpuSpec) -> bool:
    """Whether the gamma and beta gradients are summed by several blocks for each column. Source: `M > 64 * 1024 &&
    …`."""
    return rows > 64 * 1024 and columns // _TILE < gpu.sms // 2


def _block_rows(rows: int, columns: int) -> int:
    """Partial sums of one column: one for each 32 rows, at most 32768 blocks in all."""
    return min(64 * 1024 // 2 // ceil_div(columns, _TILE), ceil_div(rows, _TILE))


def _sum_blocks(plan: Plan, blocks: TensorMeta, unused: Sequence[int], first: int, gpu: GpuSpec) -> None:
    """Partial sums of each gradient, then each gradient anew as their sum; the tensors made for it before are
    dropped."""
    for _ in unused:
        plan.temporary(blocks.nbytes, "partial sums")
    for index, before in enumerate(unused):
        plan.output(first + index)
        sum_scratch(plan, blocks, (0,), False, gpu)
        plan.release(before)


def _group_norm(call: Call, gpu: GpuSpec, version: Version) -> Steps:
    """`native_group_norm(input, weight, bias, N, C, HxW, group, eps)`: a scale and a shift for each sample and
    channel."""
    plan, source = Plan(call), call.args[0]
    plan.outputs()
    samples, channels, pixels = call.args[3:6]
    affine = call.args[1] is not None or call.args[2] is not None
    if pixels != 1 and affine and samples:
        for name in ("scale", "shift"):
            plan.temporary(samples * channels * ITEMSIZE[accumulate_type(source.dtype)], name)
    return plan.steps()


def _group_norm_backward(call: Call, gpu: GpuSpec, version: Version) -> Steps:
    """`native_group_norm_backward(grad_out, input, mean, rstd, weight, N, C, HxW, group, output_mask)`."""
    plan, source = Plan(call), call.args[1]
    plan.outputs()
    samples, channels, pixels, groups, mask = call.args[5:10]
    size = ITEMSIZE[accumulate_type(source.dtype)]
    if samples:
        for _ in range(2):
            plan.temporary(samples * channels * size, "sums by channel")
        if mask[0]:
            scale = samples * channels * size if pixels != 1 and call.args[4] is not None else 0
            plan.scratch(samples * groups * size, samples * groups * size, scale, name="sums by group")
    return plan.steps()


def _batch_norm(call: Call, gpu: GpuSpec, version: Version) -> Steps | None:
    """`native_batch_norm(input, …)` and its relatives: nothing when contiguous, staging when the channels come last."""
    source = call.args[0]
    plan = Plan(call)
    plan.outputs()
    if _channels_last(source):
        plan.scratch(*_staging(source, 4, gpu), name="batch norm staging")
        return plan.steps()
    return plan.steps() if source.is_contiguous and source.numel <= INT32_MAX else None


def _batch_norm_backward(call: Call, gpu: GpuSpec, version: Version) -> Steps | None:
    """`native_batch_norm_backward(grad_out, input, weight, running_mean, running_var, save_mean, save_invstd, train,
    eps, mask)`."""
    plan, grad, source, weight = Plan(call), call.args[0], call.args[1], call.args[2]
    mask, train = call.args[9], bool(call.args[7])
    if not mask[0] or source.numel > INT32_MAX:
        return None
    if not _channels_last(source):
        if not source.is_contiguous:
            return None
        if train or mask[1] or mask[2]:
            plan.contiguous(grad, "contiguous gradient")
        else:  # nothing is summed up: the running variance alone is asked, `batch_norm_calc_invstd`
            plan.temporary(source.shape[1] * ITEMSIZE[accumulate_type(source.dtype)], "inverse deviations")
        plan.outputs()
    elif _channels_last(grad) and train:
        size = source.shape[1] * ITEMSIZE[accumulate_type(source.dtype)]
        plan.temporary(size, "sum of gradients")
        plan.temporary(size, "sum of gradients times input")
        _gradients_of_both(plan, weight, mask)
        plan.scratch(*_staging(source, 2, gpu), name="batch norm staging")
        plan.output(0)
    else:
        return None
    return plan.steps()


def _gradients_of_both(plan: Plan, weight: TensorMeta | None, mask: Sequence[bool]) -> None:
    """Of a weight and a bias, if there are any, also of those that nobody asks for. Source:
    `batch_norm_backward_reduce_cuda_channels_last_template`."""
    for place, asked in enumerate(mask[1:], start=1):
        if weight is not None and asked:
            plan.output(place)
        elif weight is not None:
            plan.temporary(weight.nbytes, "gradient that nobody asks for")


def _sums(call: Call, gpu: GpuSpec, version: Version) -> Steps | None:
    """`batch_norm_backward_reduce(grad_out, input, …)`, of SyncBatchNorm."""
    plan, source = Plan(call), call.args[1]
    plan.outputs()
    if _channels_last(source):
        plan.scratch(*_staging(source, 2, gpu), name="batch norm staging")
    return plan.steps()


def _channels_last(tensor: TensorMeta) -> bool:
    """Contiguous in NHWC or NDHWC order, or in both at once with a channel stride of 1."""
    rank = len(tensor.shape)
    if rank in (4, 5) and permuted(tensor, (0, *range(2, rank), 1)).is_contiguous:
        return True
    return tensor.is_contiguous and rank > 1 and tensor.stride[1] == 1


def _staging(source: TensorMeta, values: int, gpu: GpuSpec) -> tuple[int, ...]:
    """What the blocks of one channel share: `values` numbers for each, and a semaphore. Source:
    `flexible_launch_configs`."""
    channels = source.shape[1]
    rows = source.numel // max(channels, 1)
    width = min(_last_power(channels), 32)
    height = min(_last_power(ceil_div(rows, 16)), 512 // width)
    if width * height != 512:
        width = min(_last_power(channels), 512 // height)
    blocks = min(ceil_div(rows, height * 16), 128)
    if blocks < 8:
        return ()
    return (values * channels * blocks * ITEMSIZE[accumulate_type(source.dtype)], 4 * ceil_div(channels, width))


def _last_power(value: int) -> int:
    return 1 << (max(value, 1).bit_length() - 1)


RULES = {
    "native_layer_norm": _layer_norm,
    "native_layer_norm_backward": _layer_norm_backward,
    "_fused_rms_norm": _layer_norm,
    "_fused_rms_norm_backward": _rms_norm_backward,
    "native_group_norm": _group_norm,
    "native_group_norm_backward": _group_norm_backward,
    "native_batch_norm": _batch_norm,
    "_native_batch_norm_legit": _batch_norm,
    "native_batch_norm_backward": _batch_norm_backward,
    "batch_norm_stats": _batch_norm,
    "batch_norm_backward_reduce": _sums,
}
