"""cuDNN's batch norm against recorded sizes: H200, torch 2.11, cuDNN 9.19, `resnet_channels_last` of the workloads."""

from __future__ import annotations

import pytest

from memgraph.gpu.rules.batch_norm import backward_workspace, forward_workspace
from memgraph.gpu.specs import find
from tests.gpu.workspace_calls import allocated, new, run, strided

RECORDED = [  # channels, samples times places, forward, backward
    (64, 294_912, 952_580, 1_573_924), (64, 73_728, 238_952, 394_276), (256, 73_728, 952_592, 1_573_936),
    (128, 73_728, 476_832, 787_496), (128, 18_432, 120_792, 197_672), (512, 18_432, 479_952, 787_520),
    (256, 18_432, 240_512, 394_288), (256, 4_608, 60_944, 99_376), (1024, 4_608, 240_560, 394_336),
    (512, 4_608, 120_816, 197_696), (512, 1_152, 34_128, 50_240), (2048, 1_152, 133_296, 197_792),
]  # fmt: skip


@pytest.mark.parametrize(("channels", "rows", "forward", "backward"), RECORDED)
def test_recorded_workspaces(channels: int, rows: int, forward: int, backward: int) -> None:
    assert (forward_workspace(channels, rows), backward_workspace(channels, rows)) == (forward, backward)


@pytest.mark.parametrize(
    ("channels", "rows", "forward"), [(64, 100_352, 810_164), (256, 1_568, 52_688), (16, 32_768, 265_268)]
)
def test_recorded_workspaces_in_fp32(channels: int, rows: int, forward: int) -> None:
    assert forward_workspace(channels, rows, 4) == forward


CHANNELS = new(64)
LAST = strided((32, 64, 96, 96), (64 * 9216, 1, 64 * 96, 64), dtype="float16")
FIRST = new(24, 64, 112, 112)


def forward(source: object, *, training: bool = True) -> list[object]:
    out = (source, CHANNELS, CHANNELS)
    return allocated(
        run("cudnn_batch_norm", source, CHANNELS, CHANNELS, CHANNELS, CHANNELS, training, 0.1, 1e-5, out=out)
    )


def test_channels_first_take_nothing_as_recorded() -> None:
    assert forward(FIRST) == ["out 0", "out 1", "out 2"]


def test_channels_last_take_partial_sums_in_training() -> None:
    assert forward(LAST) == ["out 0", "out 1", "out 2", 952_580]
    assert forward(LAST, training=False) == ["out 0", "out 1", "out 2"]


def test_a_gradient_in_another_order_is_copied_first() -> None:
    grad = new(32, 64, 96, 96, dtype="float16")
    found = run("cudnn_batch_norm_backward", LAST, grad, CHANNELS, out=(LAST, CHANNELS, CHANNELS))
    assert allocated(found) == [32 * 64 * 9216 * 2, "out 0", "out 1", "out 2", 1_573_924]


def test_other_cards_and_types_are_said_to_be_an_estimate() -> None:
    wide = LAST._replace(dtype="float32", itemsize=4)
    for source, card in ((LAST, find("rtx3090")), (wide, find("a100-40gb"))):
        steps = run("cudnn_batch_norm", source, CHANNELS, CHANNELS, None, None, True, 0.1, 1e-5, card=card)
        assert steps is not None and steps[-1].name == "cuDNN workspace (estimate)"  # type: ignore[union-attr]
