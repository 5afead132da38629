"""The split reductions of Hopper's kernels, against cuDNN 9.19 itself: 1,043 plans of random convolutions, made of a
description of an H200 and through a handle on one (`benchmarks/cudnn/convolutions.py`, `on_gpu.py`)."""

from __future__ import annotations

import gzip
import json

import pytest

from memgraph.gpu.call import TensorMeta
from memgraph.gpu.cudnn.question import Config, Convolution, question
from memgraph.gpu.cudnn.splits import Work, parts, with_clusters, work_of
from memgraph.gpu.rules.layout import dense
from memgraph.gpu.specs import find
from tests import DATA

H200 = find("h200").clusters
KIB64 = 128 * 128 * 4
"""An fp32 tile of 128 x 128."""


def recorded() -> list[tuple[Convolution, Config, int]]:
    """What was asked, the description's answer, the handle's workspace."""
    with gzip.open(DATA / "cudnn_splits_h200.json.gz", "rt") as file:
        rows = json.load(file)["rows"]
    return [
        (
            question(kind, *(dense(shape, dtype) for shape in (x, w, y)), stride, padding, dilation, last),
            Config(engine, tuple(map(tuple, knobs)), (), described),
            handled,
        )
        for kind, x, w, y, dtype, padding, stride, dilation, last, engine, knobs, described, handled in rows
    ]


def test_the_description_with_the_cards_clusters_is_what_the_handle_says() -> None:
    """As it is, the description is right in 418 of 1,043."""
    plans = recorded()
    as_described = sum(config.workspace == handled for _, config, handled in plans)
    corrected = [with_clusters(config, asked, H200).workspace for asked, config, _ in plans]
    exact = sum(size == handled for size, (_, _, handled) in zip(corrected, plans, strict=True))
    near = sum(abs(size - handled) <= 0.01 * handled for size, (_, _, handled) in zip(corrected, plans, strict=True))
    assert (len(plans), as_described, exact, near) == (1043, 418, 1015, 1026)


def test_the_law_gives_a_descriptions_own_workspace() -> None:
    """Channels last nothing else is in it: 440 of the 448 with a known tile."""
    plans = [(work_of(config, asked), config) for asked, config, _ in recorded() if asked.x_stride[1] == 1]
    known = [(work, config.workspace) for work, config in plans if work is not None]
    right = sum(parts(work, max(1, 18 // work.blocks)) == size for work, size in known)
    assert (len(known), right) == (448, 440)


@pytest.mark.parametrize(
    ("clusters", "iterations", "resident", "expected"),
    [
        (9, 512, 18, 18 * KIB64 + 159 + 4 * 9),  # two parts each, which meet once
        (3, 512, 18, 18 * KIB64 + 159 + 4 * 3 * 6),  # six parts meet in 3 + 2 + 1 places
        (10, 512, 18, 0),  # more than half of the card is busy: nothing is split
        (36, 512, 18, 0),  # two full waves
        (37, 2, 18, 131),  # a third, too short to split, and a counter
        (
            45,
            512,
            18,
            18 * KIB64 + 159 + 4 * (9 + 1),
        ),  # two full waves, nine in two parts, a counter
        (1, 298, 18, 9 * KIB64 + 159 + 4 * (5 + 3 + 2 + 1)),  # many parts of at least 33 iterations
    ],
)
def test_parts_and_flags(clusters: int, iterations: int, resident: int, expected: int) -> None:
    """fp32, tiles of 128 x 128, 32 elements an iteration."""
    work = Work(clusters, 1, 128 * 128, iterations, 32, "float32", True)
    assert parts(work, resident) == expected


def test_what_the_library_did_not_split_is_not_split() -> None:
    """83 clusters of seven blocks, 15 at once: the law would halve what is left over, the description's 131 bytes say
    that cuDNN does not. An H200 took 131 (benchmarks/recordings/workloads/resnet_channels_last.json.gz)."""
    x, w = dense((32, 64, 48, 48), "float16"), dense((64, 64, 3, 3), "float16")
    asked = question("data", x, w, x, (1, 1), (1, 1), (1, 1), True)
    config = Config(67, ((2, 1), (13, 0), (18, 0), (25, 0), (27, 7), (28, 1)), (), 131)
    assert with_clusters(config, asked, H200).workspace == 131


def test_a_kernel_without_such_splits_stays_as_it_is() -> None:
    image: TensorMeta = dense((8, 64, 56, 56), "float32")
    asked = question("forward", image, dense((64, 64, 3, 3), "float32"), image, (1, 1), (1, 1), (1, 1), False)
    config = Config(45, ((2, 4),), (0,), 12_345)
    assert with_clusters(config, asked, H200) == config


def test_only_the_card_whose_clusters_are_known() -> None:
    assert H200[3] == 39
    assert find("a100-80gb").clusters == {}
