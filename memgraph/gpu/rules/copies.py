"""Ops that take nothing but their outputs while their inputs are contiguous (or channels-last, where noted).

Each also has slower paths with copies; for inputs that lead there the answer is that it is not known.
Sources:
aten/src/ATen/native/cuda/{DilatedMaxPool2d,AveragePool2d,AdaptiveAveragePooling,AdaptiveMaxPooling2d,UpSample*,
ReflectionPad,ReplicationPadding,GridSampler,Im2Col,Col2Im,TensorTransformations,WeightNorm}.cu.
"""

from __future__ import annotations

import math
from collections.abc import Callable

from memgraph.gpu.call import Call, Steps, TensorMeta
from memgraph.gpu.rules.layout import Plan, permuted, tensors
from memgraph.gpu.rules.reductions import Version
from memgraph.gpu.spec import GpuSpec

Rule = Callable[[Call, GpuSpec, Version], "Steps | None"]


def _contiguous_only(call: Call, gpu: GpuSpec, version: Version) -> Steps | None:
    """Known if every tensor is row-major."""
    plan = Plan(call)
    plan.outputs()
    return plan.steps() if all(tensor.is_contiguous for tensor in tensors(call.args)) else None


def _any_strides(call: Call, gpu: GpuSpec, version: Version) -> Steps:
    """Their kernels go by the strides of what they read and write (`packed_accessor64`)."""
    plan = Plan(call)
    plan.outputs()
    return plan.steps()


def _either_order(call: Call, gpu: GpuSpec, version: Version) -> Steps | None:
    """Known if every tensor is row-major, or every one is channels-last."""
    inputs = [tensor for tensor in tensors(call.args) if len(tensor.shape) == 4]
    if inputs and all(_channels_last(tensor) for tensor in inputs):
        plan = Plan(call)
        plan.outputs()
        return plan.steps()
    return _contiguous_only(call, gpu, version)


def _pool_backward(call: Call, gpu: GpuSpec, version: Version) -> Steps | None:
    """`avg_pool2d_backward(grad_output, self, …)`: the gradient is copied into the input's order."""
    plan, grad, source = Plan(call), call.args[0], call.args[1]
    if not source.is_contiguous:
        return _either_order(call, gpu, version)
    plan.outputs()
    plan.contiguous(grad, "contiguous gradient")
    return plan.steps()


def _sampled(call: Call, gpu: GpuSpec, version: Version) -> Steps:
    """`grid_sampler_2d(input, grid, …)` and its like read any strides. cuDNN's wants a contiguous grid, and no tensor
    that is expanded (cuda/GridSampler.cpp, cudnn/GridSampler.cpp: `contiguousIfZeroInStrides`)."""
    plan = Plan(call)
    if call.op.startswith("cudnn_"):
        source, grid, *gradient = call.args
        for tensor in (source, grid, *gradient):
            if tensor is grid or 0 in tensor.stride:
                plan.contiguous(tensor, "contiguous input")
    plan.outputs()
    return plan.steps()


def _columns(call: Call, gpu: GpuSpec, version: Version) -> Steps | None:
    """`im2col(self, …)`, `col2im(self, …)`: the result is made like the input and then resized, so if it grows both are
    there for a moment. Source: `im2col_cuda`, `col2im_cuda`."""
    plan, source = Plan(call), call.args[0]
    grows = bool(call.outputs) and call.outputs[0].nbytes > source.nbytes
    first = plan.temporary(source.nbytes, "result before it is resized") if grows else -1
    if not grows:
        plan.output()
    plan.contiguous(source, "contiguous input")
    if grows:
        plan.output()
        plan.release(first)
    return plan.steps()


def _unpooled(call: Call, gpu: GpuSpec, version: Version) -> Steps:
    """`max_unpool2d(self, indices, …)`, `max_unpool3d`: contiguous copies of both, then the result. Source:
    MaxUnpooling.cu."""
    plan = Plan(call)
    for tensor in call.args[:2]:
        plan.contiguous(tensor, "contiguous input")
    plan.outputs()
    return plan.steps()


def _affine_grid(call: Call, gpu: GpuSpec, version: Version) -> Steps:
    """`affine_grid_generator(theta, size, align_corners)`: the points of the grid with a one beside them, each
    coordinate from a range, which is scaled where corners are not aligned. Source: AffineGridGenerator.cpp."""
    plan, theta, (batch, _, *lengths), aligned = Plan(call), call.args[0], call.args[1], call.args[2]
    plan.temporary(batch * math.prod(lengths) * (len(lengths) + 1) * theta.itemsize, "points of the grid")
    for length in reversed(lengths):
        plan.scratch(*[length * theta.itemsize] * (1 if aligned else 2), name="range")
    plan.output()
    return plan.steps()


def _channels_last(tensor: TensorMeta) -> bool:
    return permuted(tensor, (0, 2, 3, 1)).is_contiguous


def _roll(call: Call, gpu: GpuSpec, version: Version) -> Steps | None:
    """`roll(self, shifts, dims)`: one dimension after the other, each into a tensor of its own; the first wants a
    contiguous input."""
    plan, source = Plan(call), call.args[0]
    dims = call.arg(2, "dims", ())
    count = len(dims) if isinstance(dims, tuple) else 1
    plan.contiguous(source, "contiguous input")
    for _ in range(count - 1):
        plan.temporary(source.nbytes, "rolled so far")
    plan.output()
    return plan.steps()


def _upsampled(call: Call, gpu: GpuSpec, version: Version) -> Steps:
    """`upsample_*(self, …)` and their backwards: structured kernels, whose output comes first; then a contiguous copy
    of what is neither NCHW nor NHWC. Source: aten/src/ATen/native/cuda/UpSample*.cu; measured on a slice of a
    concatenation's gradient."""
    plan, source = Plan(call), call.args[0]
    plan.output()
    if len(source.shape) != 4 or not _channels_last(source):
        plan.contiguous(source, "contiguous input")
    return plan.steps()


_EITHER = (
    "max_pool2d_with_indices",
    "max_pool2d_with_indices_backward",
    "avg_pool2d",
    "_adaptive_avg_pool2d",
    "adaptive_avg_pool2d",
    "_adaptive_avg_pool2d_backward",
)
_CONTIGUOUS = (
    "max_pool3d_with_indices",
    "max_pool3d_with_indices_backward",
    "avg_pool3d",
    "avg_pool3d_backward",
    "_adaptive_avg_pool3d",
    "_adaptive_avg_pool3d_backward",
    "adaptive_max_pool2d",
    "adaptive_max_pool2d_backward",
    "reflection_pad1d",
    "reflection_pad1d_backward",
    "reflection_pad2d",
    "reflection_pad2d_backward",
    "adaptive_max_pool3d",
    "adaptive_max_pool3d_backward",
    "_weight_norm_interface",
    "_weight_norm_interface_backward",
)

_STRIDED = tuple(f"replication_pad{dims}d{suffix}" for dims in (1, 2, 3) for suffix in ("", "_backward"))

_SAMPLED = tuple(
    f"{name}{suffix}"
    for name in ("grid_sampler_2d", "grid_sampler_3d", "cudnn_grid_sampler")
    for suffix in ("", "_backward")
)
_UPSAMPLED = tuple(
    f"{name}{suffix}"
    for name in (
        "upsample_nearest1d", "upsample_nearest2d", "upsample_nearest3d", "_upsample_nearest_exact1d",
        "_upsample_nearest_exact2d", "_upsample_nearest_exact3d", "upsample_linear1d", "upsample_bilinear2d",
        "upsample_bicubic2d", "_upsample_bilinear2d_aa", "_upsample_bicubic2d_aa", "upsample_trilinear3d",
    )
    for suffix in ("", "_backward")
)  # fmt: skip

RULES: dict[str, Rule] = {
    "max_unpool2d": _unpooled,
    "max_unpool3d": _unpooled,
    "affine_grid_generator": _affine_grid,
    **dict.fromkeys(_UPSAMPLED, _upsampled),
    **dict.fromkeys(_EITHER, _either_order),
    **dict.fromkeys(_CONTIGUOUS, _contiguous_only),
    **dict.fromkeys(_STRIDED, _any_strides),
    "roll": _roll,
    **dict.fromkeys(_SAMPLED, _sampled),
    "avg_pool2d_backward": _pool_backward,
    "im2col": _columns,
    "col2im": _columns,
}
