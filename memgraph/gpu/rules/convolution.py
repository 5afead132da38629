"""Convolutions through cuDNN: layout changes, and what its kernels need.

PyTorch's part (aten/src/ATen/native/Convolution.cpp, cudnn/ConvShared.cpp, cudnn/Conv_v8.cpp) is exact: copies in the
layout that each of the three directions chooses for itself, outputs, one workspace a cuDNN call, the bias gradient as
an ordinary sum. cuDNN's part is its own choice of kernels: where it is installed it is asked (`memgraph.gpu.cudnn`),
for any card; elsewhere the rules of `convolution_estimate.py` stand, and everything but the patch embeddings of three
channels is marked as an estimate, and so listed in the result.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple

from memgraph.gpu.call import Call, Steps, TensorMeta
from memgraph.gpu.cudnn.ask import asker
from memgraph.gpu.cudnn.choice import Choice, Settings, Without, choose
from memgraph.gpu.cudnn.question import DTYPES, question
from memgraph.gpu.rules.convolution_estimate import (
    Shape,
    each,
    forward_workspace,
    input_gradient_workspace,
    weight_gradient_workspace,
)
from memgraph.gpu.rules.layout import Plan
from memgraph.gpu.rules.memory_format import is_in, suggests_last
from memgraph.gpu.rules.reductions import sum_scratch

if TYPE_CHECKING:
    from memgraph.gpu.specs import GpuSpec

Version = tuple[int, int]
_ESTIMATE = "cuDNN workspace (estimate)"
_MEASURED = "cuDNN workspace"


class _Convolution(NamedTuple):
    """One that PyTorch was asked for."""

    source: TensorMeta
    weight: TensorMeta
    out: TensorMeta
    steps: tuple[Any, ...]
    """Stride, padding, dilation."""
    transposed: bool
    groups: int
    settings: Settings

    def shape(self, last: bool) -> Shape:
        """Done with the channels innermost, or not."""
        return Shape(self.source, self.weight, self.steps[0], self.groups, self.transposed, last)

    def ask(self, kind: str, last: bool, gpu: GpuSpec) -> Choice | None:
        """cuDNN's choice for the result (`forward`), or for the gradient of the input (`data`) or of the weight; None
        where it is not installed, or not called."""
        own = self.shape(last).own_kernel
        library = None if own or self.source.dtype not in DTYPES else asker()
        if library is None or not all(tensor.numel for tensor in (self.source, self.weight, self.out)):
            return None
        x, y = self.source, self.out
        if self.transposed:  # its result is the gradient of the convolution that it undoes
            x, y, kind = y, x, {"forward": "data", "data": "forward"}.get(kind, kind)
        stride, padding, dilation = (each(numbers, len(self.weight.shape) - 2) for numbers in self.steps)
        asked = question(kind, x, self.weight, y, stride, padding, dilation, last)
        return choose(library, asked, gpu, self.settings)

    def take(self, plan: Plan, kind: str, last: bool, gpu: GpuSpec) -> int:
        """The workspace, or less where it cannot be had."""
        shape, asked = self.shape(last), self.ask(kind, last, gpu)
        name = _name(shape, gpu, asked)
        if asked is None:
            return plan.temporary(_OTHERWISE[kind](shape, self.out), name, Without())
        if asked.trial is not None:
            plan.trial(asked.trial)
        return plan.temporary(asked.workspace, name, asked.smaller)


_OTHERWISE: dict[str, Callable[[Shape, TensorMeta], int]] = {
    "forward": forward_workspace,
    "data": input_gradient_workspace,
    "weight": weight_gradient_workspace,
}
"""The workspace where cuDNN is not asked."""


def _format(one: TensorMeta, other: TensorMeta) -> bool:
    """Whether two operands are met with the channels innermost (`cudnn_conv_suggest_memory_format`,
    aten/src/ATen/native/ConvUtils.h)."""
    return one.dtype != "float64" and (suggests_last(one) or suggests_last(other))


def _copied(plan: Plan, tensor: TensorMeta, last: bool, name: str) -> int:
    """`tensor.contiguous(memory_format)`."""
    return -1 if is_in(tensor, last) else plan.temporary(tensor.nbytes, name)


def _settings(call: Call) -> Settings:
    """`torch.backends.cudnn` at the call, which `aten::_convolution` is given as arguments."""
    named = call.kwargs
    return Settings(named.get("allow_tf32", True), named.get("deterministic", False), named.get("benchmark", False))


def _forward(call: Call, gpu: GpuSpec, version: Version) -> Steps:
    """`convolution(input, weight, bias, stride, padding, dilation, transposed, output_padding, groups)`."""
    source, weight = call.args[0], call.args[1]
    plan = Plan(call)
    out = call.outputs[0] if call.outputs else source
    _, source = _row_major(plan, source)
    last = _format(source, weight)
    asked = _Convolution(source, weight, out, call.args[3:6], call.args[6], call.args[8], _settings(call))
    _copied(plan, source, last, "contiguous input")
    plan.output(0)
    _copied(plan, weight, last, "contiguous weight")
    asked.take(plan, "forward", last, gpu)
    return plan.steps()


def _backward(call: Call, gpu: GpuSpec, version: Version) -> Steps:
    """`convolution_backward(grad, input, weight, bias_sizes, stride, padding, dilation, transposed, output_padding,
    groups, output_mask)`: the input's gradient, the weight's, the bias's, each with its own temporaries."""
    grad, source, weight = call.args[0], call.args[1], call.args[2]
    wants_input, wants_weight, wants_bias = call.args[10]
    plan = Plan(call)
    copy, source = _row_major(plan, source)
    asked = _Convolution(source, weight, grad, call.args[4:7], call.args[7], call.args[9], _settings(call))
    if asked.shape(_format(source, weight)).own_kernel:
        _depthwise(plan, asked, wants_input, wants_weight)
    else:
        _by_cudnn(plan, asked, wants_input, wants_weight, gpu)
    if wants_bias:
        plan.output(wants_input + wants_weight)
        sum_scratch(plan, grad, (0, *range(2, len(grad.shape))), False, gpu)
    plan.release(copy)
    return plan.steps()


def _row_major(plan: Plan, source: TensorMeta) -> tuple[int, TensorMeta]:
    """In one dimension of space the input is made contiguous first, "to avoid accidentally going through NHWC for
    permuted 3d input" (`_convolution`, `convolution_backward`): with its channels innermost PyTorch's own depthwise
    kernels serve it all the same."""
    if len(source.shape) != 3:
        return -1, source
    return _copied(plan, source, False, "contiguous input"), _in(source, False)


def _by_cudnn(plan: Plan, asked: _Convolution, wants_input: bool, wants_weight: bool, gpu: GpuSpec) -> None:
    """`cudnn_convolution_backward` and `cudnn_convolution_transpose_backward`: the gradient is first brought to the
    input's layout, the first of the two only where its strides suggest another; then each direction copies what is not
    in the layout of its own operands."""
    source, weight, grad = asked.source, asked.weight, asked.out
    copies = []
    if wants_weight and not is_in(source, last := _format(source, weight)):
        source = _in(source, last)
        copies.append(plan.temporary(source.nbytes, "contiguous input"))
    last = suggests_last(source)
    if not is_in(grad, last) if asked.transposed else suggests_last(grad) != last:
        grad = _in(grad, last)
        copies.append(plan.temporary(grad.nbytes, "contiguous gradient"))
    if wants_input:
        last = _format(grad, weight)
        plan.output(0)
        own = [_copied(plan, weight, last, "contiguous weight"), _copied(plan, grad, last, "contiguous gradient")]
        plan.release(asked.take(plan, "data", last, gpu), *reversed(own))
    if wants_weight:
        last = _format(source, grad)
        pair = (source, grad) if asked.transposed else (grad, source)
        own = [_copied(plan, each, last, "contiguous operand") for each in pair]
        plan.output(1 if wants_input else 0)
        plan.release(asked.take(plan, "weight", last, gpu), *reversed(own))
    plan.release(*reversed(copies))


def _in(tensor: TensorMeta, last: bool) -> TensorMeta:
    """A copy in that layout."""
    rank = len(tensor.shape)
    order = (1, *range(rank - 1, 1, -1), 0) if last else tuple(reversed(range(rank)))
    stride, step = [0] * rank, 1
    for dim in order:
        stride[dim] = step
        step *= tensor.shape[dim]
    return tensor._replace(stride=tuple(stride))


def _depthwise(plan: Plan, asked: _Convolution, wants_input: bool, wants_weight: bool) -> None:
    """PyTorch's own kernels take the weight's gradient first (`conv_depthwise2d_backward_cuda_out`,
    aten/src/ATen/native/cuda/DepthwiseConv2d.cu)."""
    copies = [plan.contiguous(tensor, "contiguous operand") for tensor in (asked.out, asked.source, asked.weight)]
    if wants_weight:
        plan.output(1 if wants_input else 0)
    if wants_input:
        plan.output(0)
    plan.release(*reversed(copies))


def _name(shape: Shape, gpu: GpuSpec, asked: Choice | None) -> str:
    """Whether cuDNN said so, or it was measured for such a call: a patch embedding of three channels on Hopper."""
    if asked is not None:
        return _MEASURED if asked.asked else _ESTIMATE
    measured = shape.patches and shape.source.shape[1] == 3 and gpu.capability == (9, 0) and not shape.last
    return _MEASURED if measured or shape.own_kernel else _ESTIMATE


RULES = {"convolution": _forward, "convolution_backward": _backward}
