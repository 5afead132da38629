"""The ATen calls of nanoVLM's step on a virtual H200 are those of a real one, call by call, on every build of torch.

`data/op_sequence_h200_small.txt.gz` was written on an H200 with torch 2.11.0+cu130 by
`python -m benchmarks.accuracy.op_sequence real … small`: two training steps of nanoVLM with two blocks in each stack,
batch 2, 128 tokens, bf16 autocast, AdamW; each line is a call that touches the device, with shapes and dtypes.
"""

from __future__ import annotations

import difflib
import gzip

import pytest
import torch

from benchmarks.accuracy import op_sequence
from tests import DATA

RECORDED = DATA / "op_sequence_h200_small.txt.gz"


@pytest.fixture(scope="module")
def recorded() -> list[str]:
    """The real GPU's calls."""
    header, *calls = gzip.decompress(RECORDED.read_bytes()).decode().splitlines()
    assert header == "# torch 2.11.0+cu130, NVIDIA H200"
    return calls


def test_the_recording_is_of_a_whole_run(recorded: list[str]) -> None:
    assert len(recorded) == 1981
    # Two blocks of each stack, forward, in two steps.
    assert sum(call.startswith("aten._scaled_dot_product_cudnn_attention.default") for call in recorded) == 8
    assert sum(call.startswith("aten.silu_backward.default") for call in recorded) == 4


def test_a_virtual_h200_makes_the_same_calls(recorded: list[str]) -> None:
    calls = op_sequence.collect("virtual", True)
    differences = [line for line in difflib.unified_diff(recorded, calls, lineterm="", n=0) if line[:2] in ("-a", "+a")]
    # From torch 2.15 on `linear` on three dimensions ends in another view; nothing is allocated by either.
    gone = [
        line[1:].replace("aten.view.default", "aten._unsafe_view.default") for line in differences if line[0] == "-"
    ]
    come = [line[1:] for line in differences if line[0] == "+"]
    assert gone == come
    assert len(gone) == (16 if torch_version() >= (2, 15) else 0)


def torch_version() -> tuple[int, int]:
    """(major, minor) of the torch that is installed."""
    major, minor = torch.__version__.split(".")[:2]
    return int(major), int(minor)
