"""What waits in cycles of references is said with both ends: freed at once, and never."""

from __future__ import annotations

import gc
from pathlib import Path

import torch

from memgraph.trace import Trace
from memgraph.units import format_bytes
from tests.capture.watching import card

MIB = 2**20
NODES = 10
"""Each holds 1 MiB, and nothing names it once the next is made."""


class Node:
    """An object in a cycle with itself."""

    def __init__(self) -> None:
        self.data, self.me = torch.zeros(MIB // 4, device="cuda"), self


def said(trace: Trace) -> list[str]:
    """What is assumed of the collector."""
    return [text for text in trace.assumptions if "collector" in text]


def between(lower: int, upper: int) -> str:
    """The words for it."""
    return f"the peak would be {format_bytes(lower)}, and {format_bytes(upper)} if the collector never ran by itself"


def test_what_waits_when_the_program_is_over_is_said() -> None:
    """The collector never ran: ten are alive; had each been freed at once, one would be."""
    with card() as gpu:
        for _ in range(NODES):
            Node()
    assert gpu.trace.peak.requested == NODES * MIB
    (text,) = said(gpu.trace)
    assert between(MIB, NODES * MIB) in text
    assert f"hold {format_bytes((NODES - 1) * MIB)} at the peak" in text


def test_what_was_collected_might_have_lived_on() -> None:
    """Whatever of the ten was alive at most, without the collector all would be."""
    before = gc.get_threshold()
    with card() as gpu:
        gc.set_threshold(10)
        for _ in range(NODES):
            Node()
        gc.set_threshold(*before)
    assert MIB < gpu.trace.peak.requested < NODES * MIB
    (text,) = said(gpu.trace)
    assert between(MIB, NODES * MIB) in text


def test_a_collection_that_is_asked_for_leaves_nothing_open() -> None:
    with card() as gpu:
        for _ in range(NODES):
            Node()
            gc.collect()
    assert gpu.trace.peak.requested == MIB
    assert said(gpu.trace) == []


def test_the_upper_end_is_where_a_collection_is_asked_for() -> None:
    """Five are collected before the next five are made."""
    with card() as gpu:
        for _ in range(2):
            for _ in range(NODES // 2):
                Node()
            gc.collect()
    (text,) = said(gpu.trace)
    assert between(MIB, NODES // 2 * MIB) in text


def test_what_waits_for_less_than_a_twentieth_of_the_peak_is_not_said() -> None:
    with card() as gpu:
        large = torch.zeros(30 * MIB, device="cuda")
        for _ in range(5):
            Node()
        del large
    assert gpu.trace.peak.requested == (30 * 4 + 5) * MIB
    assert said(gpu.trace) == []


SCRIPT = """
import torch
from torch import nn

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(512, 512, bias=False)
    def forward(self, x):
        return self.layer(x)

x = torch.randn(8, 512, device="cuda")
for _ in range({models}):
    model = Net().cuda()
    model.layer.me = {me}
    model(x).sum().backward()
"""


def test_models_that_know_themselves_wait_whatever_their_parameters_are_called(tmp_path: Path) -> None:
    """Five models of 512 x 512 in fp32 with their gradients are 10 MiB; the last of them has a name."""
    from memgraph.api import run_script

    texts = []
    for models, me in ((5, "[model]"), (5, "0"), (1, "[model]")):
        script = tmp_path / "script.py"
        script.write_text(SCRIPT.format(models=models, me=me))
        trace, _ = run_script(str(script))
        texts.append(said(trace))
    (text,), freed, alone = texts
    assert f"hold {format_bytes(4 * 2 * MIB)} at the peak" in text
    assert freed == alone == []
