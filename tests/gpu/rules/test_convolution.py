"""Convolutions against 240 recorded calls of an H200: what PyTorch does itself everywhere, what cuDNN takes for patch
embeddings. What cuDNN takes elsewhere is an estimate, and the rule says so."""

from __future__ import annotations

from typing import NamedTuple

import pytest

from memgraph.gpu.call import Release, Steps, Temporary, TensorMeta
from tests.gpu.recorded_ops import cases, in_bytes, tidied
from tests.gpu.workspace_calls import H200, RTX3090, allocated, new, run, strided, told


class Shape(NamedTuple):
    """A case of benchmarks/accuracy/ops/convolution.py: square images and kernels."""

    batch: int
    channels: int
    side: int
    filters: int
    kernel: int
    stride: int
    padding: int
    groups: int


SHAPES = {
    "vit224_n1": Shape(1, 3, 224, 768, 16, 16, 0, 1),
    "vit224_n8": Shape(8, 3, 224, 768, 16, 16, 0, 1),
    "vit224_n12": Shape(12, 3, 224, 768, 16, 16, 0, 1),
    "vit224_n16": Shape(16, 3, 224, 768, 16, 16, 0, 1),
    "vit384_n8": Shape(8, 3, 384, 768, 16, 16, 0, 1),
    "vit512_n4": Shape(4, 3, 512, 768, 16, 16, 0, 1),
    "stem_n8": Shape(8, 3, 224, 64, 7, 2, 3, 1),
    "stem_n32": Shape(32, 3, 224, 64, 7, 2, 3, 1),
    "cifar_n64": Shape(64, 3, 32, 64, 3, 1, 1, 1),
    "res3x3_64": Shape(32, 64, 56, 64, 3, 1, 1, 1),
    "res3x3_128s2": Shape(32, 128, 56, 128, 3, 2, 1, 1),
    "res3x3_256": Shape(32, 256, 14, 256, 3, 1, 1, 1),
    "res3x3_512": Shape(16, 512, 7, 512, 3, 1, 1, 1),
    "res1x1_64_256": Shape(32, 64, 56, 256, 1, 1, 0, 1),
    "res1x1_s2": Shape(32, 256, 56, 512, 1, 2, 0, 1),
    "unet3x3": Shape(4, 320, 64, 320, 3, 1, 1, 1),
    "odd": Shape(5, 13, 33, 27, 3, 1, 1, 1),
    "group32": Shape(8, 128, 28, 128, 3, 1, 1, 32),
    "depthwise": Shape(32, 96, 56, 96, 3, 1, 1, 96),
    "depthwise7": Shape(32, 96, 56, 96, 7, 1, 3, 96),
}
DTYPES = {"bf16": "bfloat16", "fp16": "float16", "fp32": "float32"}
RECORDED = cases("convolution")
EXACT = [
    f"conv {shape} {kind} nchw {way}"
    for shape in ("vit224_n1", "vit224_n8", "vit224_n12", "vit224_n16", "vit384_n8", "vit512_n4")
    for kind in ("bf16", "fp16", "fp32")
    for way in ("forward", "backward")
    if (shape, kind, way) != ("vit512_n4", "fp16", "forward")  # half of what the rule says
]


def image(shape: tuple[int, int, int, int], dtype: str, layout: str) -> TensorMeta:
    """Dense, with channels outside or inside."""
    _, channels, height, width = shape
    inside = (height * width * channels, 1, width * channels, channels)
    return strided(shape, inside, dtype) if layout == "nhwc" else new(*shape, dtype=dtype)


def call(name: str, card: object = H200) -> tuple[Steps, tuple[TensorMeta, ...]]:
    """The rule's answer to a recorded case, and the outputs."""
    _, which, kind, layout, way = name.split()
    shape, dtype = SHAPES[which], DTYPES[kind]
    side = (shape.side + 2 * shape.padding - shape.kernel) // shape.stride + 1
    source = image((shape.batch, shape.channels, shape.side, shape.side), dtype, layout)
    weight = image((shape.filters, shape.channels // shape.groups, shape.kernel, shape.kernel), dtype, layout)
    out = image((shape.batch, shape.filters, side, side), dtype, layout)
    bias = new(shape.filters, dtype=dtype)
    rest = ((shape.stride,) * 2, (shape.padding,) * 2, (1, 1), False, (0, 0), shape.groups)
    if way == "forward":
        outputs: tuple[TensorMeta, ...] = (out,)
        found = run("convolution", source, weight, bias, *rest, out=outputs, card=card)
    else:
        wanted = (shape.channels > 3, True, True)  # an image needs no gradient
        outputs = tuple(each for each, wants in zip((source, weight, bias), wanted, strict=True) if wants)
        args = (out, source, weight, (shape.filters,), *rest, wanted)
        found = run("convolution_backward", *args, out=outputs, card=card)
    assert found is not None
    return found, outputs


def test_all_recorded_calls_are_of_these_shapes() -> None:
    assert len(RECORDED) == 240 == len(SHAPES) * len(DTYPES) * 2 * 2
    assert {name.split()[1] for name in RECORDED} == set(SHAPES)


@pytest.mark.parametrize("name", EXACT)
def test_patch_embeddings_are_exact(name: str) -> None:
    assert in_bytes(*call(name)) == tidied(list(RECORDED[name]))


def is_library(step: object) -> bool:
    return isinstance(step, Temporary) and step.name.startswith("cuDNN workspace")


@pytest.mark.parametrize("name", RECORDED)
def test_all_but_cudnns_own_is_exact(name: str) -> None:
    """Outputs, copies, and the scratch of the bias gradient's sum: sizes and order."""
    steps, outputs = call(name)
    found = in_bytes(tuple(step for step in steps if not is_library(step) and not isinstance(step, Release)), outputs)
    own = [abs(size) for size in found if size > 0]
    recorded = [size for size in list(RECORDED[name]) if size > 0 and size in own]
    if name.split()[1].startswith("depthwise"):  # PyTorch's own kernels make the weight's gradient first
        own, recorded = sorted(own), sorted(recorded)
    assert own == recorded


def test_an_embedding_of_patches_by_hand() -> None:
    # 8 images of 224: input 8 × 8 (3, padded) × 224² × 2 bytes, weight 768 × 8 × 256 × 2, output 8 × 768 × 14² × 2.
    size = 8 * 8 * 224**2 * 2 + 768 * 8 * 256 * 2 + 8 * 768 * 14**2 * 2 + 16
    assert size == 11_976_720
    assert told(call("conv vit224_n8 bf16 nchw forward")[0]) == ["out 0", size]
    # 16 images are 3,136 places: above 2,500 the weight's gradient is split in three, partial sums in fp32.
    size = 20_807_696 - 16 + 6 * 768 * 8 * 256 * 2 + 128 + 16
    assert size == 39_682_192
    assert told(call("conv vit224_n16 bf16 nchw backward")[0]) == ["out 0", size, "free 0", "out 1"]


def test_fp32_rewrites_many_images() -> None:
    """As 64 of 224 pixels did in a recorded run, and 32 did not: input with 4 channels for 3, weight, output."""
    size = 64 * 4 * 224**2 * 4 + 768 * 4 * 256 * 4 + 64 * 768 * 14**2 * 4 + 16
    assert size == 93_061_136
    for batch, found in ((64, ["out 0", size]), (32, ["out 0"])):
        source, weight, out = new(batch, 3, 224, 224), new(768, 3, 16, 16), new(batch, 768, 14, 14)
        rest = ((16, 16), (0, 0), (1, 1), False, (0, 0), 1)
        assert told(run("convolution", source, weight, None, *rest, out=out)) == found


def test_what_was_not_measured_is_called_an_estimate() -> None:
    for name, card in (("conv res3x3_256 bf16 nchw forward", H200), ("conv vit224_n8 bf16 nchw forward", RTX3090)):
        steps, _ = call(name, card)
        assert [step.name for step in steps if isinstance(step, Temporary)] == ["cuDNN workspace (estimate)"]
    steps, _ = call("conv vit224_n8 bf16 nchw forward")
    assert [step.name for step in steps if isinstance(step, Temporary)] == ["cuDNN workspace"]


def test_a_strided_input_is_made_contiguous_first() -> None:
    source = strided((8, 3, 224, 224), (224 * 224 * 3 * 2, 224 * 224 * 2, 224, 1), "float32")
    weight, out = new(768, 3, 16, 16), new(8, 768, 14, 14)
    rest = ((16, 16), (0, 0), (1, 1), False, (0, 0), 1)
    assert told(run("convolution", source, weight, None, *rest, out=out)) == [8 * 3 * 224 * 224 * 4, "out 0"]


def test_depthwise_kernels_of_pytorch_itself_take_nothing() -> None:
    assert told(call("conv depthwise fp32 nchw forward")[0]) == ["out 0"]
    assert sorted(map(str, told(call("conv depthwise fp32 nchw backward")[0]))) == ["out 0", "out 1", "out 2"]


def test_one_dimension_of_space_is_never_done_with_the_channels_innermost() -> None:
    """A causal depthwise convolution of an input whose channels are innermost, as `x.transpose(1, 2)` has them: a copy,
    and PyTorch's own kernels, which take nothing; the weight's gradient comes before the input's. In two dimensions
    cuDNN would serve it."""
    source, grad = strided((6, 512, 512), (512 * 512, 1, 512), "bfloat16"), new(6, 512, 515, dtype="bfloat16")
    weight, rest = new(512, 1, 4, dtype="bfloat16"), ((1,), (3,), (1,), False, (0,), 512)
    size = 6 * 512 * 512 * 2
    assert told(run("convolution", source, weight, None, *rest, out=grad)) == [size, "out 0"]
    steps = run("convolution_backward", grad, source, weight, None, *rest, (True, True, False), out=(source, weight))
    assert allocated(steps) == [size, "out 1", "out 0"]


def backward_of(grad: TensorMeta, source: TensorMeta, weight: TensorMeta, transposed: bool = False) -> list[object]:
    """What is allocated, cuDNN's workspaces left out."""
    rest = (None, (1,), (1,), (1,), transposed, (0,), 1, (True, True, False))
    steps = run("convolution_backward", grad, source, weight, *rest, out=(source, weight))
    assert steps is not None
    return told(tuple(step for step in steps if not is_library(step) and not isinstance(step, Release)))


def test_a_gradient_is_copied_by_each_direction_that_needs_it() -> None:
    """A recurrent layer's gradient, time outermost, says no layout of its own: the input's gradient is made, then the
    copy for it; so for the weight. One that says channels-last is brought to the input's layout once."""
    source, weight = new(8, 16, 30), new(16, 16, 3)
    size = 8 * 16 * 30 * 4
    by_time = strided((8, 16, 30), (16, 1, 8 * 16))
    assert backward_of(by_time, source, weight) == ["out 0", size, size, "out 1"]
    inside = strided((8, 16, 30), (16 * 30, 1, 16))
    assert backward_of(inside, source, weight) == [size, "out 0", "out 1"]
    assert backward_of(by_time, source, weight, transposed=True) == [size, "out 0", "out 1"]


def test_a_weight_in_another_layout_is_copied_after_the_result_is_made() -> None:
    inside = strided((8, 16, 30, 30), (16 * 900, 1, 16 * 30, 16), "bfloat16")
    weight = new(16, 16, 3, 3, dtype="bfloat16")
    rest = ((1, 1), (1, 1), (1, 1), False, (0, 0), 1)
    assert told(run("convolution", inside, weight, None, *rest, out=inside))[:2] == ["out 0", 16 * 16 * 9 * 2]
