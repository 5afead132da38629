"""Snapshots of other torch versions with frames of C++ alone: what grows is told, by op; of what does not, nothing."""

from __future__ import annotations

import pickle
from pathlib import Path

import pytest
import torch
from torch import nn

import memgraph
from memgraph.analyze.findings import findings
from memgraph.analyze.peak import categories
from memgraph.analyze.steps import steps
from memgraph.files.snapshot_rounds import repeated
from memgraph.render import table
from memgraph.trace import Category, Trace
from tests.files.native_snapshots import as_torch_2_0, in_native_frames, mangled, of_windows, renamed

MIB = 2**20


def _trained(how: str, adam: bool = False) -> Trace:
    """Six steps of 1024 → 4096 → 1024 on 2048 rows: an input and an output are 8 MiB, the hidden layer 32."""
    kept: list[torch.Tensor] = []
    with memgraph.virtual_gpu("rtx3090") as gpu:
        net = nn.Sequential(nn.Linear(1024, 4096), nn.ReLU(), nn.Linear(4096, 1024)).cuda()
        update = torch.optim.Adam(net.parameters()) if adam else torch.optim.SGD(net.parameters())
        if how == "hook":
            net[1].register_forward_hook(lambda _module, _args, out: kept.append(out.detach()))
        for _ in range(6):
            loss = net(torch.randn(2048, 1024, device="cuda")).square().mean()
            loss.backward(retain_graph=how == "retained")
            update.step()
            update.zero_grad()
            if how == "retained":
                kept.append(loss)
    return gpu.trace


def read(trace: Trace, old: bool, folder: Path, *, inference: bool = False) -> Trace:
    path = folder / "a.pickle"
    path.write_bytes(pickle.dumps(in_native_frames(trace, old=old, inference=inference)))
    return memgraph.load(path)


@pytest.mark.parametrize("old", [True, False], ids=["torch 2.1", "torch 2.6"])
@pytest.mark.parametrize(("how", "adam", "rate", "op"), [("retained", False, 48, "relu"), ("hook", True, 32, "relu")])
def test_what_grows_is_told_by_its_op(how: str, adam: bool, rate: int, op: str, old: bool, tmp_path: Path) -> None:
    """The graph of each step: input, hidden layer, output, loss. Or the hidden layer alone, in a hook's list."""
    trace = read(_trained(how, adam), old, tmp_path)
    (found,) = findings(trace)
    assert (found.name, found.bytes) == ("growing", rate * MIB + 4 * (how == "retained"))
    assert op in found.what and "detach" in found.help and "memgraph run" in found.why
    lines = table.report(trace, 3).splitlines()
    assert any("growing: Grows" in line for line in lines[:10]) and any("do:" in line for line in lines[:10])


@pytest.mark.parametrize("old", [True, False], ids=["torch 2.1", "torch 2.6"])
@pytest.mark.parametrize("adam", [True, False])
def test_of_an_ordinary_run_nothing_is_told(adam: bool, old: bool, tmp_path: Path) -> None:
    trace = read(_trained("plain", adam), old, tmp_path)
    assert findings(trace) == ()
    found = steps(trace)
    assert found is not None and found.count >= 5 and found.steady


@pytest.mark.parametrize(("zeros", "counted"), [(False, 4), (True, 8)])
def test_micro_batches_of_sgd_are_one_step(zeros: bool, counted: int, tmp_path: Path) -> None:
    """Nothing shows of SGD without momentum. Of two backwards one leaves gradients and one adds to them; where these
    are set to zero nobody can say."""
    with memgraph.virtual_gpu("rtx3090") as gpu:
        net = nn.Sequential(nn.Linear(1024, 4096), nn.ReLU(), nn.Linear(4096, 1024)).cuda()
        update = torch.optim.SGD(net.parameters())
        for _ in range(4):
            for _ in range(2):
                net(torch.randn(2048, 1024, device="cuda")).square().mean().backward()
            update.step()
            update.zero_grad(set_to_none=not zeros)
    trace = read(gpu.trace, True, tmp_path)
    assert max(phase.step for phase in trace.phases if phase.name == "backward") == counted
    assert findings(trace) == ()


def test_a_relu_as_large_as_cublass_workspace_is_none(tmp_path: Path) -> None:
    """32 MiB are what Hopper's workspace takes, and what the hidden layer does: six of them are kept."""
    sizes = {row.category: row.bytes for row in categories(read(_trained("hook", True), True, tmp_path))}
    assert sizes[Category.ACTIVATION] >= 6 * 32 * MIB
    assert sizes.get(Category.WORKSPACE, 0) < 32 * MIB


def _evaluated(kept: str, grad: bool = False) -> Trace:
    """Eight batches of 2048 rows through 1024 → 4096 → 1024: an output is 8 MiB."""
    outputs: list[torch.Tensor] = []
    with memgraph.virtual_gpu("rtx3090") as gpu:
        net = nn.Sequential(nn.Linear(1024, 4096), nn.ReLU(), nn.Linear(4096, 1024)).cuda().eval()
        with torch.set_grad_enabled(grad):
            for _ in range(8):
                out = net(torch.randn(2048, 1024, device="cuda"))
                if kept:
                    outputs.append(out.argmax(-1) if kept == "classes" else out)
    return gpu.trace


@pytest.mark.parametrize("old", [True, False], ids=["torch 2.1", "torch 2.6"])
@pytest.mark.parametrize("inference", [True, False])
def test_predictions_that_pile_up_are_told(inference: bool, old: bool, tmp_path: Path) -> None:
    """Nothing is trained, so a round is where the same ops come again; in inference mode no frame says forward."""
    trace = read(_evaluated("outputs"), old, tmp_path, inference=inference)
    (found,) = findings(trace)
    assert (found.name, found.bytes) == ("growing", 8 * MIB)
    assert "a call" in found.what and "x addmm" in found.what
    assert "`.cpu()`" in found.help


@pytest.mark.parametrize("kept", ["", "classes"])
def test_an_evaluation_that_keeps_little_is_not(kept: str, tmp_path: Path) -> None:
    """Classes are 16 KiB a batch, of 24 GiB."""
    assert findings(read(_evaluated(kept), True, tmp_path, inference=True)) == ()


@pytest.mark.parametrize(
    ("names", "found"),
    [
        ("xabcabcabcabc", (12, 3)),
        ("abcabcabcab", (0, 0)),
        ("aaaaaaaa", (0, 0)),
        ("setup" + "abab" * 6, (24, 2)),
        ("", (0, 0)),
    ],
)
def test_what_comes_again(names: str, found: tuple[int, int]) -> None:
    assert repeated(names) == found


@pytest.mark.parametrize("adam", [True, False])
@pytest.mark.parametrize("form", ["torch 2.0", "mangled", "windows"])
def test_other_ways_to_write_the_same_frames_say_the_same(form: str, adam: bool, tmp_path: Path) -> None:
    trace = _trained("", adam)
    wanted = read(trace, old=True, folder=tmp_path)
    data = in_native_frames(trace, old=True)
    forms = {"torch 2.0": as_torch_2_0, "mangled": lambda one: renamed(one, mangled),
             "windows": lambda one: renamed(one, of_windows)}  # fmt: skip
    path = tmp_path / "b.pickle"
    path.write_bytes(pickle.dumps(forms[form](data)))
    found = memgraph.load(path)
    assert (found.phases, found.ops, tuple(found.buffers)) == (wanted.phases, wanted.ops, tuple(wanted.buffers))
    assert {phase.name for phase in found.phases} >= {"forward", "backward"}
    assert sum(op.name.startswith("aten.") for op in found.ops) > len(found.ops) // 2
