"""Kernels that cuDNN plans only where there is a driver: what it says of them, and what they take."""

from __future__ import annotations

import ctypes
import gzip
import json
from typing import Any

import pytest

from memgraph.gpu.cudnn import choice
from memgraph.gpu.cudnn.choice import Choice, Others, Settings, Without, choose
from memgraph.gpu.cudnn.question import Config, Convolution, question
from memgraph.gpu.cudnn.refused import Refusals
from memgraph.gpu.cudnn.with_driver import FOURIER, workspace
from memgraph.gpu.rules.layout import dense
from memgraph.gpu.specs import find
from tests import DATA
from tests.gpu.cudnn.test_choice import Proposes

H200 = find("h200")


def told(*refused: int, workspace: int = 4096) -> Any:
    """A library that left these out before its first."""
    return Proposes(Config(50, (), (0,), workspace, refused))


def weight(
    batch: int, inputs: int, outputs: int, side: int, kernel: int = 3, stride: int = 1, groups: int = 1,
    dtype: str = "float32", last: bool = False,
) -> Convolution:  # fmt: skip
    x, y = dense((batch, inputs, side, side), dtype), dense((batch, outputs, side // stride, side // stride), dtype)
    kernels = dense((outputs, inputs // groups, kernel, kernel), dtype)
    return question("weight", x, kernels, y, (stride,) * 2, (kernel // 2,) * 2, (1, 1), last)


@pytest.mark.parametrize(
    ("batch", "inputs", "outputs", "side", "size"),
    [
        # PyTorch's super-resolution example, as an H200 allocated it: 4 x 22 x 22 tiles of 36 places
        (4, 64, 64, 85, 36 * 4 * (64 * 64 + 4 * 22 * 22 * 128)),
        (4, 64, 32, 85, 36 * 4 * (64 * 32 + 4 * 22 * 22 * 96)),
        (8, 384, 40, 10, 6_607_872),
        (96, 96, 64, 10, 20_791_296),
    ],
)
def test_winograds_weight_gradient_with_tf32(batch: int, inputs: int, outputs: int, side: int, size: int) -> None:
    asked = weight(batch, inputs, outputs, side)
    found = choose(told(17), asked, H200, Settings())
    assert found == Choice(size, True, Others(asked, H200, Settings(), 0))
    found = choose(told(), asked, H200, Settings())
    assert found == Choice(4096, True, Others(asked, H200, Settings()))


@pytest.mark.parametrize(
    ("batch", "inputs", "outputs", "side", "kernel", "tiles", "size"),
    [
        (16, 12, 48, 24, 3, 1, 6_684_672),  # one tile holds 30 results a side
        (128, 17, 160, 33, 3, 2, 209_035_264),  # four tiles, two at once
        (3, 12, 12, 256, 3, 2, 1_253_376),
    ],
)
def test_fouriers_input_gradient(
    batch: int, inputs: int, outputs: int, side: int, kernel: int, tiles: int, size: int
) -> None:
    """Spectra of 32 x 17 complex numbers: of each kernel, and of the channels of both images for one tile or two."""
    assert size == 32 * 17 * 8 * (inputs * outputs + batch * tiles * (inputs + outputs))
    asked = weight(batch, inputs, outputs, side, kernel)._replace(kind="data")
    found = choose(told(50), asked, H200, Settings())
    assert found == Choice(size, True, Others(asked, H200, Settings(), 0))


def test_fouriers_input_gradient_under_a_stride() -> None:
    """A layer of PyTorch's DCGAN, the largest of its trials on an H200: 256 channels of 8 x 8 are 1,024 of 4 x 4, the
    kernels of 4 x 4 are of 3 x 3, since an input's place has to do with three of the output's."""
    spectra = 32 * 17 * 8 * (512 * 1024 + 64 * (512 + 1024))
    size = spectra + 4 * (64 * 1024 * 4 * 4 + 64 * 512 * 4 * 4 + 512 * 1024 * 3 * 3) + 16
    assert size == 2_734_686_224
    asked = question(
        "data", dense((64, 256, 8, 8), "float32"), dense((512, 256, 4, 4), "float32"),
        dense((64, 512, 4, 4), "float32"), (2, 2), (1, 1), (1, 1), False,
    )  # fmt: skip
    assert workspace(FOURIER["data"], asked, H200) == size


def test_fouriers_kernels_of_whole_images() -> None:
    """64 channels of 56 x 56 with a border of one are of 64 x 64. Two buffers: forward for the spectra of images and
    kernels, which are more than those of the results, backward for those of both images; the kernel beside them."""
    spectrum, images, kernels = 64 * 33 * 8, 32 * 64, 64 * 64
    forward = weight(32, 64, 64, 56)._replace(kind="forward")
    assert workspace(FOURIER["forward"], forward, H200) == 2 * spectrum * (images + kernels) + 4 * 64 * 64 * 9
    results = 4 * 32 * 64 * 56 * 56
    assert workspace(FOURIER["weight"], weight(32, 64, 64, 56), H200) == 2 * spectrum * 2 * images + results
    assert workspace(FOURIER["weight"], weight(1, 8, 8, 256), H200) is None  # 258 places: NVIDIA says at most 256


def recorded(what: str) -> list[tuple[Convolution, list[Any]]]:
    """A convolution, and what an H200 said of it."""
    with gzip.open(DATA / "cudnn_handle_h200.json.gz", "rt") as file:
        rows = json.load(file)[what]
    found = []
    for kind, x, w, y, dtype, padding, stride, dilation, last, *rest in rows:
        tensors = (dense(shape, dtype) for shape in (x, w, y))
        found.append((question(kind, *tensors, stride, padding, dilation, last), rest))
    return found


def test_fouriers_kernels_through_a_handle() -> None:
    """All directions, layouts and strides, with groups and without: to the byte."""
    rows = recorded("fourier")
    assert [workspace(engine, asked, H200) for asked, (engine, _) in rows] == [size for _, (_, size) in rows]
    assert len(rows) == 71


def test_what_a_handle_proposes_first() -> None:
    """Weight gradients of 3 x 3 and others at random: its engine is the first that answers without a driver, or one of
    those that were left out before. Exact, and within 512 bytes or 1 %."""
    rows = recorded("firsts")
    exact = near = 0
    for asked, (tf32, deterministic, engine, knobs, size, refused, served, taken) in rows:
        assert served in (engine, *refused)
        proposed = Config(engine, tuple(map(tuple, knobs)), (), size, tuple(refused))
        found = choose(Proposes(proposed), asked, H200, Settings(tf32, deterministic))  # type: ignore[arg-type]
        assert found is not None
        exact += found.workspace == taken
        near += abs(found.workspace - taken) <= max(512, 0.01 * taken)
    assert (len(rows), exact, near) == (962, 939, 952)


def test_an_engine_that_does_not_serve_a_convolution_is_left_out() -> None:
    """Winograd's serves no stride; what it takes for 5 x 5, and for groups with the channels last, is not known."""
    for asked, known in (
        (weight(8, 64, 64, 28, stride=2), True),
        (weight(8, 64, 64, 28, groups=2, last=True), False),
        (weight(8, 64, 64, 28, kernel=5), False),
    ):
        found = choose(told(17), asked, H200, Settings())
        assert found is not None
        assert (found.workspace, found.asked) == (4096, known)


def test_one_of_which_nothing_is_known_hides_those_after_it() -> None:
    """The next that answers stands for it, not one that may never have its turn."""
    asked = weight(8, 64, 64, 28, kernel=5)
    found = choose(told(17, 18), asked, H200, Settings())
    assert found is not None
    assert (found.workspace, found.asked) == (4096, False)
    assert choose(told(18), asked, H200, Settings()) != found


def test_a_product_where_the_library_proposes_it_and_only_there() -> None:
    """1 x 1, channels first: a sum of 32 x 64 for each of 8 images."""
    asked = weight(8, 32, 64, 14, kernel=1)
    assert choose(told(62), asked, H200, Settings()) == Choice(8 * 32 * 64 * 4, False, Without())
    assert choose(told(), asked, H200, Settings()) == Choice(4096, True, Others(asked, H200, Settings()))
    without = choose(told(62, workspace=512), asked, H200, Settings(tf32=False))
    assert without is None  # the one proposal has tensor cores, and the product too


@pytest.mark.parametrize(
    ("engine", "channels", "dtype", "last", "size"),
    [
        (16, 144, "float32", True, 8 * 16 * 160 * 9 * 4),  # 144 channels as 160
        (16, 240, "bfloat16", True, 8 * 16 * 256 * 9 * 4),
        (16, 144, "float32", False, 0),
        (19, 96, "bfloat16", False, 0),
    ],
)
def test_depthwise_weight_gradients(engine: int, channels: int, dtype: str, last: bool, size: int) -> None:
    asked = weight(16, channels, channels, 20, groups=channels, dtype=dtype, last=last)
    assert choose(told(engine), asked, H200, Settings()) == Choice(size, False, Without())


def test_after_an_engine_that_was_left_out_all_others_are_tried(monkeypatch: pytest.MonkeyPatch) -> None:
    asked, library = weight(8, 64, 64, 28), told(17)
    monkeypatch.setattr(choice, "asker", lambda: library)
    found = choose(library, asked, H200, Settings())
    assert found is not None
    assert found.smaller.sizes() == (4096,)


class Logging:
    """A library with a log: what is said while its proposals are asked for."""

    def __init__(self) -> None:
        self.mask, self.callback = 0, None

    def cudnnSetCallback(self, mask: ctypes.c_uint, data: None, callback: Any) -> None:  # noqa: N802
        self.mask, self.callback = mask.value, callback

    def say(self, *lines: bytes) -> None:
        text = ctypes.create_string_buffer(b"\0".join(lines) + b"\0\0")
        if self.mask and self.callback is not None:
            self.callback(3, None, None, ctypes.addressof(text))


def test_what_the_library_says_it_left_out() -> None:
    library = Logging()
    refusals = Refusals(library)  # type: ignore[arg-type]
    checks = b"I! CuDNN (v91900 56) function cudnnBackendGetAttribute_engine_config_support_checks() called:"
    library.say(checks, b'i!     engineConfig: type=json; val={"engineId":99};')  # nobody listens yet
    with refusals.heard() as engines:
        library.say(b"I! CuDNN (v91900 56) function cudnnBackendGetAttribute() called:", b'"engineId":98')
        library.say(
            checks,
            b'i!     engineConfig: type=json; val={"engineId":17,"smVersion":900,"knobChoices":{}};',
            b"i!     Warning: CUDNN_STATUS_NOT_SUPPORTED; Reason: status",
            b'i!     engineConfig: type=json; val={"engineId":18,"smVersion":900,"knobChoices":{}};',
        )
    assert engines == [17, 18]
    assert library.mask == 0
