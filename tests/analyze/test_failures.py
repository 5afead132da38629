"""What is said of a run that was out of memory: asked, alive, free, and what would have served."""

from __future__ import annotations

import textwrap
from pathlib import Path

from memgraph.analyze.failures import failure, failures
from memgraph.trace import Category, Trace
from tests.conftest import MIB, Tape

TRAIN = """
import torch
from torch import nn

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.blocks = nn.ModuleList(nn.Linear(1024, 1024) for _ in range(4))
    def forward(self, x):
        for block in self.blocks:
            x = torch.relu(block(x))  # here
        return x

net = Net().cuda()
kept = [torch.randn(8192, 1024, device="cuda")]
net(kept[0]).mean().backward()
"""


def ran(folder: Path, text: str, memory: int) -> Trace:
    from memgraph.api import run_script

    script = folder / "train.py"
    script.write_text(textwrap.dedent(text))
    return run_script(str(script), gpu="rtx3060", memory=memory)[0]


def test_what_was_asked_by_what_and_what_was_alive(tmp_path: Path) -> None:
    """Parameters of 4 × (1024² + 1024) × 4 bytes = 16.02 MiB, and cuBLAS's workspace. Each result and its relu are
    32 MiB; the input is another: 128 MiB hold the input and three of them."""
    trace = ran(tmp_path, TRAIN, 160 * MIB)
    found = failure(trace)
    assert found is not None
    assert (found.size, found.phase.name) == (32 * MIB, "forward")
    assert found.op is not None
    assert found.op.source == f"{tmp_path.name}/train.py:11"
    assert found.alive == sum(size for _, size in found.categories)
    assert found.missing == 32 * MIB - (160 * MIB - trace.usage_at(found.event).reserved)
    (told,) = failures(trace)
    assert told.name == "out-of-memory"
    assert told.where == found.op.source
    assert "32.00 MiB were asked for by" in told.what
    assert "in the forward of step 1" in told.what


def test_a_run_that_fits_did_not_fail(tmp_path: Path) -> None:
    assert failures(ran(tmp_path, TRAIN, 2**30)) == ()


def test_one_that_goes_on_did_not_fail(tmp_path: Path) -> None:
    text = """
        import torch
        for size in (2**30, 2**20):
            try:
                torch.zeros(size, device="cuda")
            except torch.cuda.OutOfMemoryError:
                pass
    """
    trace = ran(tmp_path, text, 2**30)
    assert not trace.fits
    assert failures(trace) == ()


def test_where_only_fragments_are_free_segments_that_grow_would_serve(tmp_path: Path) -> None:
    """Of 100 MiB two blocks of 40 in a segment each; the first dies, and 12 MiB of its segment are used again. Then
    40 MiB are asked for: 48 are free, in pieces of 28 and 20. Where segments grow, the page of 20 MiB that is free is
    given back: 20 + 40 + 40 = 100."""
    text = """
        import torch
        def take(mib): return torch.empty(mib * 2**20, dtype=torch.uint8, device="cuda")
        one, two = take(40), take(40)
        del one
        small = take(12)
        three = take(40)
    """
    trace = ran(tmp_path, text, 100 * MIB)
    found = failure(trace)
    assert found is not None
    assert (found.size, found.free, found.piece) == (40 * MIB, 28 * MIB, 28 * MIB)
    assert found.grows
    assert "expandable_segments" in failures(trace)[0].help


def test_what_is_free_in_the_other_pool_is_of_no_use(tape: Tape) -> None:
    """A segment of 2 MiB serves requests up to 1 MiB alone."""
    tape.phase("load", 0)
    tape.op("aten.zeros.default", source="a.py:1")
    tape.segment(2 * MIB)
    tape.alloc(1000, Category.INPUT)
    tape.out_of_memory(3 * MIB)
    found = failure(tape.trace(memory=4 * MIB))
    assert found is not None
    assert (found.piece, found.other_pool) == (0, 2 * MIB - 1024)


def test_a_leak_is_named_as_what_to_mend(tmp_path: Path) -> None:
    text = """
        import torch
        from torch import nn
        net = nn.Linear(1024, 1024).cuda()
        opt = torch.optim.SGD(net.parameters(), 0.1)
        outs = []
        for _ in range(100):
            out = net(torch.randn(1024, 1024, device="cuda"))
            out.mean().backward(); opt.step(); opt.zero_grad()
            outs.append(out.detach())
    """
    told, leak = failures(trace := ran(tmp_path, text, 100 * MIB))[0], trace
    assert not leak.fits
    assert "train.py:10" in told.help and "`outs`" in told.help
