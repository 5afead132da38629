"""Which of cuDNN's configurations PyTorch takes, with a cuDNN that proposes what the test says."""

from __future__ import annotations

import gzip
import json

import pytest

from memgraph.gpu.cudnn import choice
from memgraph.gpu.cudnn.choice import Choice, Others, Settings, Without, choose
from memgraph.gpu.cudnn.question import Config, Convolution, question
from memgraph.gpu.rules.layout import dense
from memgraph.gpu.specs import GpuSpec, find
from tests import DATA

H200 = find("h200")


class Proposes:
    """An asker whose library proposes these."""

    def __init__(self, *configs: Config) -> None:
        self.all = configs
        self.without: tuple[int, ...] = ()

    def configs(
        self, asked: Convolution, gpu: GpuSpec, without: tuple[int, ...] = (), most: int = 1
    ) -> tuple[Config, ...]:
        self.without = without
        return tuple(one for one in self.all if not set(one.notes) & set(without))[:most]


TENSOR_CORES = Config(45, (), (0,), 4096)
DOWN = Config(47, (), (1,), 2048)
PLAIN = Config(0, (), (9,), 0)
RANDOM = Config(1, (), (0, 4), 512)


def asked(
    kind: str = "forward", kernel: int = 3, groups: int = 1, dtype: str = "float32", last: bool = False
) -> Convolution:
    """A convolution of 32 channels in 8 images of 14 x 14."""
    image = dense((8, 32, 14, 14), dtype)
    weight = dense((32, 32 // groups, kernel, kernel), dtype)
    padding = (kernel // 2, kernel // 2)
    return question(kind, image, weight, image, (1, 1), padding, (1, 1), last)


@pytest.mark.parametrize(
    ("dtype", "settings", "expected"),
    [
        ("float32", Settings(), 4096),  # without the one that would convert its input
        ("float32", Settings(tf32=False), 0),  # without tensor cores
        ("float16", Settings(tf32=False), 2048),  # a half type may do anything
        ("float16", Settings(deterministic=True), 2048),
    ],
)
def test_the_first_that_the_filters_let_through(dtype: str, settings: Settings, expected: int) -> None:
    first = RANDOM if settings.deterministic else DOWN
    found = choose(Proposes(first, DOWN, TENSOR_CORES, PLAIN), asked(dtype=dtype), H200, settings)  # type: ignore[arg-type]
    assert found is not None
    assert (found.workspace, found.asked) == (expected, True)


def test_what_pytorch_allocated_on_an_h200() -> None:
    """456 convolutions of all kinds, types and layouts: exact, and within 512 bytes or 1 %."""
    with gzip.open(DATA / "cudnn_pytorch_h200.json.gz", "rt") as file:
        rows = json.load(file)["rows"]
    exact = near = 0
    for _, kind, x, w, y, dtype, padding, stride, dilation, last, engine, knobs, described, allocated in rows:
        proposed = Config(engine, tuple(map(tuple, knobs)), (), described)
        tensors = (dense(shape, dtype) for shape in (x, w, y))
        convolution = question(kind, *tensors, stride, padding, dilation, last)
        found = choose(Proposes(proposed), convolution, H200, Settings())  # type: ignore[arg-type]
        assert found is not None
        exact += found.workspace == allocated
        near += abs(found.workspace - allocated) <= max(512, 0.01 * allocated)
    assert (len(rows), exact, near) == (456, 424, 441)


def test_nothing_proposed_is_nothing_known() -> None:
    assert choose(Proposes(), asked(), H200, Settings()) is None  # type: ignore[arg-type]


def test_a_product_is_not_asked_for() -> None:
    """1 x 1 without a stride: each image has a product of its own for the weight's gradient, 8 x 32 x 32 sums."""
    for kind, size in (("forward", 0), ("data", 0), ("weight", 8 * 32 * 32 * 4)):
        found = choose(Proposes(TENSOR_CORES), asked(kind, kernel=1), H200, Settings())  # type: ignore[arg-type]
        assert found == Choice(size, False, Without())


@pytest.mark.parametrize(
    ("dtype", "batch", "side", "inputs", "outputs", "size"),
    [
        ("float16", 32, 24, 128, 512, 14 * 512 * 128 * 4 + 272),  # 18,432 places: parts of at least 1,280
        ("bfloat16", 96, 14, 48, 256, 14 * 256 * 64 * 4 + 272),  # 48 channels in as 64
        ("float16", 128, 4, 128, 1024, 0),  # two parts would be too few
        ("float32", 32, 28, 320, 256, 44 * 256 * 320 * 4 + 256),  # six tiles: 44 times on 132, in two rounds
    ],
)
def test_parts_of_a_product_with_the_channels_last(
    dtype: str, batch: int, side: int, inputs: int, outputs: int, size: int
) -> None:
    """The weight's gradient of 1 x 1 kernels: one product over all places."""
    x, y = dense((batch, inputs, side, side), dtype), dense((batch, outputs, side, side), dtype)
    told = question("weight", x, dense((outputs, inputs, 1, 1), dtype), y, (1, 1), (0, 0), (1, 1), True)
    assert choose(Proposes(TENSOR_CORES), told, H200, Settings()) == Choice(size, False, Without())  # type: ignore[arg-type]


def test_a_product_needs_tf32() -> None:
    found = choose(Proposes(TENSOR_CORES, PLAIN), asked(kernel=1), H200, Settings(tf32=False))  # type: ignore[arg-type]
    assert found is not None
    assert found.asked


def test_depthwise_kernels() -> None:
    """Half types with the channels last: eight sums an image for the weight's gradient."""
    weight = asked("weight", groups=32, dtype="bfloat16", last=True)
    found = choose(Proposes(TENSOR_CORES), weight, H200, Settings())  # type: ignore[arg-type]
    assert found == Choice(8 * 8 * 32 * 9 * 4, False, Without())
    larger = asked("weight", kernel=15, groups=32, dtype="bfloat16", last=True)  # than its images of 14 x 14
    assert choose(Proposes(TENSOR_CORES), larger, H200, Settings()) == Choice(0, False, Without())  # type: ignore[arg-type]
    fp32 = choose(Proposes(TENSOR_CORES), asked("weight", groups=32), H200, Settings())  # type: ignore[arg-type]
    assert fp32 is not None
    assert (fp32.workspace, fp32.asked) == (4096, True)


def test_what_is_tried_after_the_first(monkeypatch: pytest.MonkeyPatch) -> None:
    library = Proposes(TENSOR_CORES, DOWN, PLAIN)
    monkeypatch.setattr(choice, "asker", lambda: library)
    assert Others(asked(dtype="float16"), H200, Settings()).sizes() == (2048, 0)
    assert Without().sizes() == (0,)


@pytest.mark.parametrize(
    ("batch", "inputs", "outputs", "side", "last", "size"),
    [(64, 64, 640, 7, False, 31_850_496), (16, 16, 160, 14, True, 9_156_624), (16, 160, 384, 56, False, 254_509_056)],
)
def test_winograds_tiles_without_tf32(
    batch: int, inputs: int, outputs: int, side: int, last: bool, size: int
) -> None:  # fmt: skip
    """As an H200 took for the weight's gradient. By hand, the first: 64 images of 7 x 7 are 256 tiles of 4 x 4, so
    36 x 4 x (64 x 640 + 256 x (64 + 640)) bytes."""
    image, weight, result = ((batch, inputs, side, side), (outputs, inputs, 3, 3), (batch, outputs, side, side))
    told = question("weight", *(dense(shape, "float32") for shape in (image, weight, result)), (1, 1), (1, 1), (1, 1),
                    last)  # fmt: skip
    found = choose(Proposes(PLAIN), told, H200, Settings(tf32=False))  # type: ignore[arg-type]
    assert found is not None
    assert (found.workspace, found.asked) == (size, False)
    tf32 = choose(Proposes(TENSOR_CORES), told, H200, Settings())  # type: ignore[arg-type]
    assert tf32 is not None
    assert tf32.workspace == 4096
