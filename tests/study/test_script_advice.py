"""What would make a script fit: found by running it again."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from pathlib import Path

import pytest

from memgraph.analyze.failures import failures
from memgraph.api import run_script
from memgraph.errors import UsageError
from memgraph.plan.plan_file import Plan, Region
from memgraph.study import script_advice, script_plan
from memgraph.study.script_advice import advise_script, batch_argument, batch_option, in_runs, largest, remedies
from memgraph.study.script_plan import ScriptPlanner
from memgraph.study.script_runs import Script, ran
from memgraph.trace import Trace
from memgraph.units import format_bytes

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


@pytest.mark.usefixtures("_in_this_process")
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


def here(
    script: Script, changes: Sequence[str] = (), plan: Plan | None = None, *, go_on: bool = False
) -> Trace | None:  # fmt: skip
    """As `script_runs.ran`, in this process, which has torch loaded."""
    trace, ended = run_script(
        script.target, script.arguments, gpu=script.gpu, memory=script.memory, alloc_conf=script.alloc_conf,
        steps=script.steps, change=changes, plan=plan, go_on=go_on,
    )  # fmt: skip
    return trace if ended.code == 0 or not trace.fits else None


@pytest.fixture
def _in_this_process(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (script_advice, script_plan):
        monkeypatch.setattr(module, "ran", here)


@pytest.mark.parametrize(
    ("source", "found"),
    [
        ("p.add_argument('--batch-size', type=int, default=48)", ("--batch-size", 48)),
        ("p.add_argument('-b', '--batch_size', default=8)", ("--batch_size", 8)),
        ("@click.option('--batch', default=16)\ndef main(batch): ...", ("--batch", 16)),
        ("p.add_argument('--batch-size', type=int, required=True)", None),
        ("p.add_argument('--batch-norm', default=3)", None),
        ("p.add_argument('--lr', default=3)", None),
        ("this is no Python", None),
    ],
)
def test_the_option_that_names_the_batch(source: str, found: tuple[str, int] | None) -> None:
    assert batch_option(source) == found


def test_paths_that_count_up_are_one() -> None:
    paths = ["a.0", "a.1", "a.2", "a.4", "b.5", "head"]
    assert in_runs(paths) == ["a.0 to a.2", "a.4", "b.5", "head"]


DEEP = """
    import argparse, torch
    from torch import nn
    p = argparse.ArgumentParser()
    p.add_argument("--batch-size", type=int, default=8)
    size = 512 * p.parse_args().batch_size
    class Block(nn.Module):
        def __init__(self):
            super().__init__()
            self.up, self.down = nn.Linear(256, 1024), nn.Linear(1024, 256)
        def forward(self, x):
            return x + self.down(self.up(x).tanh())
    net = nn.Sequential(*(Block() for _ in range(6))).cuda()
    opt = torch.optim.SGD(net.parameters(), 0.1)
    for _ in range(2):
        net(torch.randn(size, 256, device="cuda")).mean().backward(); opt.step(); opt.zero_grad()
"""


def test_a_plan_is_applied_to_the_model_of_a_script(script: Path) -> None:
    """Of six blocks each keeps 4096 x (256 + 1024) x 4 = 20 MiB; with three of them computed again their inputs are
    kept, 4 MiB each, and at the end of the backward of the last of these all that one keeps is there: its tanh's 16."""
    script.write_text(textwrap.dedent(DEEP))
    plan = Plan(tuple(Region((str(number),)) for number in range(3)))
    whole, _ = run_script(str(script), gpu="rtx3060")
    trace, ended = run_script(str(script), gpu="rtx3060", plan=plan)
    assert ended.error is None
    assert whole.peak.requested - trace.peak.requested > 2 * 16 * 2**20
    with pytest.raises(UsageError, match=r"no model that the script trains has the plan's modules, like body\.0"):
        run_script(str(script), gpu="rtx3060", plan=Plan((Region(("body.0",)),)))


def test_a_full_card_is_taken_to_be_larger_where_that_is_asked(script: Path) -> None:
    script.write_text(textwrap.dedent(DEEP))
    whole, _ = run_script(str(script), gpu="rtx3060")
    trace, ended = run_script(str(script), gpu="rtx3060", memory=64 * 2**20, go_on=True)
    assert ended.error is None
    assert not trace.fits
    assert trace.peak.requested == whole.peak.requested


@pytest.mark.usefixtures("_in_this_process")
def test_a_failure_is_told_with_what_was_tried(script: Path) -> None:
    """The planner's blocks and the largest batch: what it fits in is a run of the script."""
    script.write_text(textwrap.dedent(DEEP))
    wanted = Script(str(script), ("--batch-size", "8"), False, "rtx3060", 148 * 2**20, None, None, 2)
    now, ended = run_script(str(script), wanted.arguments, gpu="rtx3060", memory=wanted.memory)
    assert ended.error is not None
    plan, batch = remedies(wanted, now)
    assert (plan.name, plan.trace.fits, batch.trace.fits) == ("checkpoint", True, True)
    assert plan.code.startswith("x = checkpoint(block, x, use_reentrant=False) of 0")
    (told, *_) = failures(now, [plan, batch])
    assert f"{plan.code} (tried: fits, {format_bytes(plan.trace.peak.reserved)}); --batch-size " in told.help
    assert "not tried" not in told.help


@pytest.mark.usefixtures("_in_this_process")
def test_the_planner_foresees_what_the_script_does(script: Path) -> None:
    script.write_text(textwrap.dedent(DEEP))
    found = ScriptPlanner(Script(str(script), (), False, "rtx3060", 100 * 2**20, None, None, 2)).least_memory()
    assert found.least is not None
    assert found.least.predicted == found.least.peak.requested


LOSS = """
    import torch
    from torch import nn
    table = nn.Linear(64, 8192).cuda()
    for _ in range(2):
        out = table(torch.ones(1024, 64, device="cuda"))
        nn.CrossEntropyLoss()(out, torch.zeros(1024, dtype=torch.long, device="cuda")).backward()
"""


def test_a_loss_in_chunks(script: Path) -> None:
    """Logits of 1024 x 8192 x 4 = 32 MiB, their log-softmax and the gradients of both, 128 MiB; in eight chunks the
    logits, the gradients of the chunks and these as one, 96 MiB, which is where the peak is. The bytes of a chunk that
    are beside them are 4 MiB each."""
    script.write_text(textwrap.dedent(LOSS))
    assert 24 * 2**20 <= peak(script, None) - peak(script, "chunked-loss") <= 36 * 2**20


def test_a_run_in_a_process_of_its_own(script: Path) -> None:
    """What `memgraph run` is told there is what is told here."""
    script.write_text(textwrap.dedent(DEEP))
    wanted = Script(str(script), ("--batch-size", "4"), False, "rtx3060", 64 * 2**20, None, None, 1)
    plan = Plan((Region(("0",)), Region(("1",))))
    apart, same = (run(wanted, ("no-foreach",), plan, go_on=True) for run in (ran, here))
    assert apart is not None and same is not None
    assert apart.peak == same.peak
