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
from memgraph.render import table
from memgraph.trace import Category, Trace
from tests.files.native_snapshots import in_native_frames

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


def read(trace: Trace, old: bool, folder: Path) -> Trace:
    path = folder / "a.pickle"
    path.write_bytes(pickle.dumps(in_native_frames(trace, old=old)))
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


def test_a_relu_as_large_as_cublass_workspace_is_none(tmp_path: Path) -> None:
    """32 MiB are what Hopper's workspace takes, and what the hidden layer does: six of them are kept."""
    sizes = {row.category: row.bytes for row in categories(read(_trained("hook", True), True, tmp_path))}
    assert sizes[Category.ACTIVATION] >= 6 * 32 * MIB
    assert sizes.get(Category.WORKSPACE, 0) < 32 * MIB
