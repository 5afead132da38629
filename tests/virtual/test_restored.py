"""Whatever ran in a block, and however it ended: every attribute of torch is afterwards the object that it was."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.distributed.fsdp import fully_shard
from torch.nn.parallel import DistributedDataParallel
from torch.serialization import get_safe_globals

import memgraph
from memgraph.api import run_script
from tests.virtual.test_device import attributes, cpu_step, state, train


def _step(model: nn.Module) -> None:
    optimizer = torch.optim.AdamW(model.parameters())
    model(torch.randn(2, 8, device="cuda")).sum().backward()
    optimizer.step()


def ddp() -> None:
    torch.distributed.init_process_group("nccl")
    _step(DistributedDataParallel(nn.Linear(8, 8).cuda()))


def ddp_that_leaves() -> None:
    ddp()
    torch.distributed.destroy_process_group()


def fsdp() -> None:
    torch.distributed.init_process_group("nccl")
    model = nn.Sequential(nn.Linear(8, 8), nn.Linear(8, 8)).cuda()
    fully_shard(model[0])
    fully_shard(model)
    _step(model)


def graph() -> None:
    x = torch.zeros(8, 8, device="cuda")
    with torch.cuda.graph(torch.cuda.CUDAGraph()):
        x @ x


def streams() -> None:
    side = torch.cuda.Stream()
    with torch.cuda.stream(side):
        x = torch.zeros(8, 8, device="cuda")
    x.record_stream(torch.cuda.current_stream())
    side.synchronize()


def files() -> None:
    path = Path("saved.pt")
    torch.save(nn.Linear(8, 8).cuda().state_dict(), path)
    torch.load(path, map_location="cuda")


SAFE = ("torch._weights_only_unpickler", "_marked_safe_globals_set")
"""A set that torch itself makes anew (`safe_globals`): it has what it had."""
RUNS: dict[str, tuple[Callable[[], None], int]] = {
    "train": (train, 1), "ddp": (ddp, 4), "ddp, left": (ddp_that_leaves, 4), "fsdp": (fsdp, 4), "graph": (graph, 1),
    "streams": (streams, 1), "files": (files, 1),
}  # fmt: skip


def block(name: str, error: BaseException | None = None) -> None:
    """One of the runs in a virtual GPU, ended so."""
    run, world = RUNS[name]
    with memgraph.virtual_gpu("h200", world=world):
        run()
        if error is not None:
            raise error


def differences(run: Callable[[], None]) -> list[object]:
    """What is another object, or another setting, after it."""
    before, state_before, safe = attributes(), state(), set(get_safe_globals())
    run()
    after, state_after = attributes(), state()
    names: list[object] = sorted(key for key in before if before[key] != after.get(key) and key != SAFE)
    assert set(get_safe_globals()) == safe
    return names + [key for key in state_before if state_before[key] != state_after[key]]


@pytest.mark.parametrize("name", RUNS)
def test_after_a_block(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    block(name)  # torch loads late what it needs
    assert differences(lambda: block(name)) == []
    assert cpu_step() == [6.0, 12.0, 18.0]


@pytest.mark.parametrize(
    "error", [ValueError("it"), KeyboardInterrupt(), SystemExit(3)], ids=lambda e: type(e).__name__
)
@pytest.mark.parametrize("name", ["ddp", "graph"])
def test_after_an_exception(name: str, error: BaseException, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    block(name)

    def failing() -> None:
        with pytest.raises(type(error)):
            block(name, error)

    assert differences(failing) == []


@pytest.mark.parametrize("ending", ["", "raise ValueError('it')", "import sys; sys.exit(3)"])
def test_after_a_script(ending: str, tmp_path: Path) -> None:
    script = tmp_path / "train.py"
    script.write_text(
        "import torch\nmodel = torch.nn.Linear(8, 8).cuda()\n"
        f"model(torch.randn(2, 8, device='cuda')).sum().backward()\n{ending}\n"
    )

    def run() -> None:
        run_script(str(script), gpu="h200")

    run()
    assert differences(run) == []
