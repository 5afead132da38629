"""Windows of signals and packed sequences, as they were recorded on an H200 with torch 2.11."""

from __future__ import annotations

import pytest
import torch
from torch.nn.utils.rnn import pack_padded_sequence

import memgraph
from tests.gpu.workspace_calls import new, run, told


@pytest.mark.parametrize(("periodic", "size"), [(True, 4004), (False, 4000)])
def test_a_window_that_is_periodic_is_one_longer(periodic: bool, size: int) -> None:
    blackman = told(run("blackman_window", 1000, periodic, out=new(1000), overload="periodic"))
    assert blackman == [size, size, size, size, "out 0", "free 3", "free 2", "free 1", "free 0"]
    assert told(run("kaiser_window", 1000, periodic, out=new(1000), overload="periodic")) == [size, "out 0", "free 0"]


def test_windows_on_the_virtual_gpu() -> None:
    with memgraph.virtual_gpu("h200") as gpu:
        window = torch.kaiser_window(1000, device="cuda")
        torch.blackman_window(1000, periodic=False, device="cuda")
    assert window.shape == (1000,)
    assert [buffer.size for buffer in gpu.trace.buffers] == [4004, 4004, 4000, 4000, 4000, 4000, 4000]


@pytest.mark.parametrize(
    ("first", "copies"), [(True, [1536, 896, 1152, 320, 256, 1536, 128]), (False, [896, 1152, 1536])]
)
def test_steps_that_the_same_sequences_reach_are_copied_together(first: bool, copies: list[int]) -> None:
    """Eight sequences of 16 floats each: 3 steps of all eight, 2 of seven, 3 of six, 1 of five, 1 of four, 8 of three,
    1 of two, 1 of one. Rows of 64 bytes; steps that lie in one piece are no copies: the last one always, and with the
    sequences behind the steps those of all, and single ones."""
    lengths = torch.tensor([20, 19, 18, 10, 9, 8, 5, 3])
    with memgraph.virtual_gpu("h200") as gpu:
        padded = torch.rand(8, 20, 16, device="cuda")
        pack_padded_sequence(padded if first else padded.view(20, 8, 16), lengths, batch_first=first)
    assert [buffer.size for buffer in gpu.trace.buffers] == [8 * 20 * 64, *copies, 92 * 64]
