"""Kernels that cuDNN plans only where there is a driver: what it says of them, and what they take."""

from __future__ import annotations

import ctypes
from typing import Any

import pytest

from memgraph.gpu.cudnn import choice
from memgraph.gpu.cudnn.choice import Choice, Others, Settings, Without, choose
from memgraph.gpu.cudnn.question import Config, Convolution, question
from memgraph.gpu.cudnn.refused import Refusals
from memgraph.gpu.rules.layout import dense
from memgraph.gpu.specs import find
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


def test_an_engine_that_does_not_serve_a_convolution_is_left_out() -> None:
    """Winograd's serves no stride and no groups; what it takes for 5 x 5 and Fourier's take is not known."""
    for asked, known in (
        (weight(8, 64, 64, 28, stride=2), True),
        (weight(8, 64, 64, 28, groups=2), True),
        (weight(8, 64, 64, 28, kernel=5), False),
    ):
        found = choose(told(17), asked, H200, Settings())
        assert found is not None
        assert (found.workspace, found.asked) == (4096, known)


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
