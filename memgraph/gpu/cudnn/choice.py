"""What PyTorch takes for a convolution: the first configuration that cuDNN proposes and its own filters let through
(aten/src/ATen/native/cudnn/Conv_v8.cpp, `get_generator_sources`, `filterEngineConfigs`, `try_configs`).

Measured: in 468 of 471 convolutions recorded on an H200, in 2,154 of 2,154 with 1 x 1 kernels, and in 60 of 60 on an
H100, the workspace that PyTorch allocated is that of the first configuration through a handle. Asked without a card,
378 of 385 others are its to the byte.

Some kernels answer only where there is a driver: matrix products through cuBLASLt, which serve 1 x 1 kernels (engines
58, 62 and 63), Winograd's and Fourier's, and some for depthwise convolutions. Whether one of them comes first the
library says (`refused.py`), and what it takes is known from recordings (`with_driver.py`). Without that word, of a
library that does not keep such a log, the rules at the end of this file stand in.

How cuBLASLt splits a reduction it would not tell: it makes no handle without a driver, and through one its first
proposal for the same product has another workspace in 1,076 of 1,969. The law gives of weight gradients with the
channels last 197 of 280 in half types and 48 of 148 in fp32; of 567 that it was not read off, 281, and of 5,369 such
weight gradients on a grid 2,586 (254 by the rule before).
"""

from __future__ import annotations

import math
from typing import NamedTuple

from memgraph.gpu.cudnn.ask import Asker, asker
from memgraph.gpu.cudnn.backend import ALL
from memgraph.gpu.cudnn.question import Config, Convolution
from memgraph.gpu.cudnn.splits import with_clusters
from memgraph.gpu.cudnn.with_driver import (
    PRODUCTS,
    is_depthwise,
    is_product,
    is_winograd,
    may_serve,
    product,
    winograd,
    workspace,
)
from memgraph.gpu.spec import GpuSpec

_TENSOR_CORE, _DOWN_CONVERT, _NONDETERMINISTIC = 0, 1, 4
"""`cudnnBackendNumericalNote_t`."""
_FLOAT = 4
_NARROW, _GIB = 16, 2**30
_TRIED = 24
"""Configurations asked for when the first cannot be had."""


class Settings(NamedTuple):
    """`torch.backends.cudnn`, as far as it decides."""

    tf32: bool = True
    deterministic: bool = False
    benchmark: bool = False


class Without(NamedTuple):
    """cuDNN has a kernel without a workspace for nearly every convolution, further down its list."""

    def sizes(self) -> tuple[int, ...]:
        """Nothing."""
        return (0,)


class Others(NamedTuple):
    """The configurations after the first. PyTorch tries them when the allocator refuses (`try_configs`)."""

    asked: Convolution
    gpu: GpuSpec
    settings: Settings
    tried: int = 1
    """How many of those that the library gives: none where the first was an engine that it left out."""

    def sizes(self) -> tuple[int, ...]:
        """Their workspaces."""
        library = asker()
        if library is None:
            return ()
        return alternatives(library, self.asked, self.gpu, self.settings, _TRIED)[self.tried :]


class Trials(NamedTuple):
    """All configurations, the fallbacks and those of engines that were left out too: with `benchmark` PyTorch makes a
    plan of each (`get_plans_from_find`)."""

    asked: Convolution
    gpu: GpuSpec
    settings: Settings

    def sizes(self) -> tuple[int, ...]:
        """Their workspaces, as far as they are known."""
        library = asker()
        if library is None:
            return ()
        found = library.configs(self.asked, self.gpu, _filtered(self.asked.dtype, self.settings), ALL)
        left_out = [] if not found else _serving(found[0], self.asked, self.settings)
        known = (workspace(engine, self.asked, self.gpu) for engine in left_out)
        answered = (_workspace(config, self.asked, self.gpu) for config in found)
        return (*(size for size in known if size is not None), *answered)


class Choice(NamedTuple):
    """What cuDNN is given."""

    workspace: int
    """Bytes."""
    asked: bool
    """Whether cuDNN said so; if not, it is a rule's word for a kernel that does not answer without a driver."""
    smaller: Others | Without
    trial: Trials | None = None
    """What is tried before."""


def choose(asker: Asker, asked: Convolution, gpu: GpuSpec, settings: Settings) -> Choice | None:
    """The workspace of one convolution on a card; None if cuDNN proposes nothing. With `benchmark` the fastest kernel
    is taken, which nobody knows beforehand: the first stands for it."""
    if settings.benchmark:
        first = choose(asker, asked, gpu, settings._replace(benchmark=False))
        return None if first is None else first._replace(trial=Trials(asked, gpu, settings))
    found = asker.configs(asked, gpu, _filtered(asked.dtype, settings), 1)
    others = Others(asked, gpu, settings)
    if found and found[0].refused is not None:
        return _told(found[0], asked, gpu, settings)
    guessed = _guessed(asked, gpu, settings)
    if guessed is not None:
        return Choice(guessed, False, others._replace(tried=0) if is_winograd(asked) else Without())
    return Choice(_workspace(found[0], asked, gpu), True, others) if found else None


def _told(first: Config, asked: Convolution, gpu: GpuSpec, settings: Settings) -> Choice:
    """By the engines that were proposed before the first that answers."""
    others = Others(asked, gpu, settings)
    serving = _serving(first, asked, settings)
    for engine in serving:
        size = workspace(engine, asked, gpu)
        if size is not None:
            known = engine != PRODUCTS[asked.kind] and not is_depthwise(asked)
            return Choice(size, known, others._replace(tried=0) if known else Without())
        if may_serve(engine, asked):
            break
    if is_depthwise(asked) and asked.kind != "weight":
        return Choice(0, False, Without())
    doubtful = any(may_serve(engine, asked) for engine in serving)
    return Choice(_workspace(first, asked, gpu), not doubtful, others)


def _serving(first: Config, asked: Convolution, settings: Settings) -> list[int]:
    """Engines that were left out before, and would pass `filterEngineConfigs`: products in fp32 use tensor cores, the
    others do not."""
    any_product = settings.tf32 or asked.dtype != "float32"
    return [engine for engine in first.refused or () if any_product or engine != PRODUCTS[asked.kind]]


def _workspace(config: Config, asked: Convolution, gpu: GpuSpec) -> int:
    return with_clusters(config, asked, gpu.clusters).workspace


def alternatives(asker: Asker, asked: Convolution, gpu: GpuSpec, settings: Settings, most: int) -> tuple[int, ...]:
    """Workspaces of the configurations in the order in which PyTorch tries them."""
    found = asker.configs(asked, gpu, _filtered(asked.dtype, settings), most)
    return tuple(_workspace(config, asked, gpu) for config in found)


def _filtered(dtype: str, settings: Settings) -> tuple[int, ...]:
    """`filterEngineConfigs`."""
    notes = [_NONDETERMINISTIC] if settings.deterministic else []
    if dtype == "float32":
        notes += [_DOWN_CONVERT] if settings.tf32 else [_DOWN_CONVERT, _TENSOR_CORE]
    return tuple(notes)


# Where the library does not say which engines it left out.


def _guessed(asked: Convolution, gpu: GpuSpec, settings: Settings) -> int | None:
    """The workspace of a kernel that does not answer, if it is likely one; None where cuDNN's answer holds."""
    if _is_likely_product(asked, settings):
        return product(asked, gpu)
    if is_depthwise(asked):
        return _depthwise(asked)
    return winograd(asked) if _is_likely_winograd(asked, settings) else None


def _is_likely_product(asked: Convolution, settings: Settings) -> bool:
    """Where an image is not a multiple of 16 bytes, only half types' input and output are taken as they are: seen in
    10 of 10 recordings, and in 2 of 8 of the others."""
    plain = asked.dtype == "float32"
    if not is_product(asked) or (plain and not settings.tf32):
        return False
    image = math.prod(asked.x[2:]) * (4 if plain else 2)
    return asked.x_stride[1] == 1 or image % 16 == 0 or (asked.kind != "weight" and not plain)


def _depthwise(asked: Convolution) -> int | None:
    """Nothing, but for the weight's gradient in a half type with the channels last: eight fp32 sums for each image,
    seen for 3, 5 and 7 places a side in 10 of 11 recordings, and not for images smaller than the kernel (ConvNeXt's of
    3 x 3 and 6 x 6 under 7 x 7, recorded on an H200)."""
    if asked.kind != "weight" or any(side < size for side, size in zip(asked.x[2:], asked.w[2:], strict=True)):
        return 0
    odd = all(size % 2 for size in asked.w[2:]) and math.prod(asked.w[2:]) > 1
    if asked.dtype == "float32" or asked.x_stride[1] != 1 or not odd:
        return None
    return 8 * asked.x[0] * math.prod(asked.w) * _FLOAT


def _is_likely_winograd(asked: Convolution, settings: Settings) -> bool:
    """Seen for 8 of 11 weight gradients in fp32 without TF32; not for one image, for 16 channels on both sides, and
    where it would take more than 1 GiB."""
    if asked.kind != "weight" or settings.tf32 or not is_winograd(asked) or asked.x[1] != asked.w[1]:
        return False
    return asked.x[0] > 1 and max(asked.w[:2]) > _NARROW and winograd(asked) <= _GIB
