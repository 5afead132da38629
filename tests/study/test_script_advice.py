"""What would make a script fit: found by running it again."""

from __future__ import annotations

import textwrap
from pathlib import Path

import pytest

from memgraph.api import run_script
from memgraph.study.script_advice import Script, advise_script, batch_argument, largest

TRAIN = """
    import torch
    from torch import nn
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.blocks = nn.ModuleList(nn.Sequential(nn.Linear(256, 256), nn.Tanh()) for _ in range(4))
        def forward(self, x):
            for block in self.blocks: x = block(x)
            return x
    net = Net().cuda()
    opt = torch.optim.AdamW(net.parameters())
    for _ in range(2):
        net(torch.randn(2048, 256, device="cuda")).mean().backward(); opt.step(); opt.zero_grad()
"""

INFER = """
    import sys, torch
    from torch import nn
    net = nn.Sequential(*(nn.Sequential(nn.Linear(256, 256), nn.Tanh()) for _ in range(8))).cuda()
    out = net(torch.randn(int(sys.argv[2]), 256, device="cuda"))
"""


@pytest.fixture
def script(tmp_path: Path) -> Path:
    return tmp_path / "train.py"


@pytest.mark.parametrize(
    ("arguments", "found"),
    [
        (["--batch", "8"], (1, "", 8)),
        (["--lr", "3", "--batch-size=32"], (2, "--batch-size=", 32)),
        (["--per_device_train_batch_size", "4"], (1, "", 4)),
        (["train.batch_size=16"], (0, "train.batch_size=", 16)),
        (["-bs", "2"], (1, "", 2)),
        (["--absorb", "2"], None),
        (["--batch-size", "auto"], None),
        (["--batch"], None),
        ([], None),
    ],
)
def test_the_argument_that_names_the_batch(arguments: list[str], found: tuple[int, str, int] | None) -> None:
    assert batch_argument(arguments) == found


@pytest.mark.parametrize("most", [0, 1, 5, 64])
@pytest.mark.parametrize("limit", [0, 1, 3, 64, 100])
def test_bisection_finds_the_largest_that_fits(most: int, limit: int) -> None:
    assert largest(most, lambda number: number <= limit) == min(most, limit)


def peak(script: Path, change: str | None) -> int:
    trace, ended = run_script(str(script), gpu="rtx3060", change=change)
    assert ended.error is None
    return trace.peak.requested


def test_checkpoints_that_the_script_does_not_know_of(script: Path) -> None:
    """Each tanh's result is kept for its backward, 2048 × 256 × 4 = 2 MiB, and that of a linear layer is not; with
    checkpoints each block's input is kept, and those of one block beside them. A peak below that of four blocks."""
    script.write_text(textwrap.dedent(TRAIN).replace("nn.Tanh()", "nn.Tanh(), nn.Tanh(), nn.Tanh()"))
    assert peak(script, "checkpoint") < peak(script, None) - 10 * 2**20


def test_an_optimizer_in_another_form(script: Path) -> None:
    """Foreach makes a copy of all parameters at once, 1.004 MiB; one at a time makes one of 256 KiB; fused makes none.
    The peak is the optimizer's, for few rows."""
    script.write_text(textwrap.dedent(TRAIN).replace("2048", "2"))
    foreach, loop, fused = (peak(script, change) for change in (None, "no-foreach", "fused"))
    assert fused < loop < foreach


def test_a_form_that_the_script_chooses_stays(script: Path) -> None:
    text = textwrap.dedent(TRAIN).replace("2048", "2").replace("parameters())", "parameters(), foreach=True)")
    script.write_text(text)
    assert peak(script, "fused") == peak(script, None)


AUTOCAST = """
    import torch
    net = torch.nn.Sequential(*(torch.nn.Linear(2048, 2048, bias=False) for _ in range(3))).cuda()
    for _ in range(2):
        with torch.autocast("cuda", torch.float16, enabled=ENABLED):
            loss = net(torch.ones(4, 2048, device="cuda")).sum()
        loss.backward()
"""


def test_autocast_is_left_out(script: Path) -> None:
    """As if the script had not asked for it: with four rows it costs copies of the weights, 8 MiB each."""
    script.write_text(textwrap.dedent(AUTOCAST.replace("ENABLED", "False")))
    plain = peak(script, None)
    script.write_text(textwrap.dedent(AUTOCAST.replace("ENABLED", "True")))
    assert peak(script, "no-autocast") == plain < peak(script, None)


def test_advice_is_what_the_script_itself_does(script: Path) -> None:
    """Eight results of 1024 rows × 256 × 4 bytes = 1 MiB are kept for a backward that never comes; without gradients
    two at a time. 40 rows more and the segments of 20 MiB would be two."""
    script.write_text(textwrap.dedent(INFER))
    wanted = Script(str(script), ("--batch", "8192"), False, "rtx3060", 64 * 2**20, None, None, 3)
    found = advise_script(wanted)
    assert not found.now.fits
    rows = {row.name: row for row in found.rows}
    assert rows["no-grad"].trace.fits
    best = next(name for name in rows if name.startswith("batch "))
    assert rows[best].trace.fits
    assert rows[best].code == "--batch " + best.removeprefix("batch ")
