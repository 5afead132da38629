"""Where an op comes from: the user's line, the module, the forward op behind a backward one."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import nn

import memgraph
from memgraph.api import Options, predict, run_script
from memgraph.trace import Op, Trace

HERE = f"{Path(__file__).parent.name}/{Path(__file__).name}"

MODEL = """
import torch
from torch import nn

class Model(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(8, 8)
    def forward(self, x):
        return self.layer(x).relu().sum()

def factory(batch):
    return Model(), {"x": torch.zeros(batch, 8)}
"""


def named(trace: Trace, name: str) -> list[Op]:
    """The trace's calls of `aten.NAME`."""
    return [op for op in trace.ops if op.name.startswith(f"aten.{name}.")]


@pytest.fixture(scope="module")
def predicted(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Trace]:
    """A step of a model of the user's own, run by memgraph."""
    folder = tmp_path_factory.mktemp("own")
    (folder / "provenance_model.py").write_text(MODEL)
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(folder)
        yield predict(Options(model="provenance_model:factory", batch=2, gpu="rtx3090", amp="none", steps=1))


def test_a_step_of_memgraphs_own_does_not_name_who_called_memgraph(predicted: Trace) -> None:
    optimizer = [op for op in predicted.ops if predicted.phases[op.phase].name == "optimizer"]
    assert optimizer
    assert {op.source for op in optimizer} == {""}
    assert not [op for op in predicted.ops if op.source.startswith(HERE)]


def test_a_predicted_model_keeps_its_own_lines(predicted: Trace) -> None:
    (relu,) = named(predicted, "relu")
    assert relu.source.endswith("/provenance_model.py:10")


def test_a_scripts_optimizer_has_the_scripts_line(tmp_path: Path) -> None:
    script = tmp_path / "train.py"
    script.write_text(
        "import torch\n"
        "weight = torch.zeros(8, device='cuda', requires_grad=True)\n"
        "optimizer = torch.optim.SGD([weight], lr=0.1)\n"
        "weight.sum().backward()\n"
        "optimizer.step()\n"
    )
    trace, ended = run_script(str(script), gpu="rtx3090")
    assert ended.code == 0
    sources = {op.source for op in trace.ops if trace.phases[op.phase].name == "optimizer"}
    assert sources == {f"{tmp_path.name}/train.py:5"}


def test_ops_have_the_users_line_and_the_innermost_modules_path() -> None:
    with memgraph.virtual_gpu("rtx3090") as gpu:
        model = nn.Sequential(nn.Linear(8, 8), nn.Sequential(nn.ReLU(), nn.Linear(8, 4))).cuda()
        loss = model(torch.zeros(2, 8).cuda()).exp()
        line = _previous_line()
    first, second = named(gpu.trace, "addmm")
    assert (first.module, second.module) == ("0", "1.1")
    assert first.source == second.source == f"{HERE}:{line}"
    (exp,) = named(gpu.trace, "exp")
    assert (exp.module, exp.source) == ("", f"{HERE}:{line}")
    assert loss.shape == (2, 4)


def test_a_backward_op_has_module_and_line_of_the_forward_op_it_differentiates() -> None:
    with memgraph.virtual_gpu("rtx3090") as gpu:
        model = nn.Sequential(nn.Linear(8, 8), nn.Tanh()).cuda()
        result = model(torch.zeros(2, 8).cuda())
        line = _previous_line()
        result.sum().backward()
    trace = gpu.trace
    (forward,) = named(trace, "tanh")
    (backward,) = named(trace, "tanh_backward")
    assert trace.ops[backward.forward] == forward
    assert (backward.module, backward.source) == ("1", f"{HERE}:{line}")
    assert forward.forward == -1


def test_a_module_that_raises_leaves_the_path_as_it_was() -> None:
    class Fails(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            raise ValueError("no")

    with memgraph.virtual_gpu("rtx3090") as gpu:
        x = torch.zeros(2, 8).cuda()
        with pytest.raises(ValueError, match="no"):
            nn.Sequential(nn.Identity(), Fails())(x)
        x.exp()
    (exp,) = named(gpu.trace, "exp")
    assert exp.module == ""


def _previous_line() -> int:
    """The number of the caller's line above this call."""
    return sys._getframe(1).f_lineno - 1


class _Adds(nn.Module):
    """Adds its number, or raises."""

    def forward(self, source: torch.Tensor, *, fail: bool = False) -> torch.Tensor:
        if fail:
            raise ValueError("as asked")
        return source + 1


@pytest.mark.parametrize("hooked", ["not", "its own", "all"])
def test_a_call_names_its_module_with_hooks_of_others_and_without(hooked: str) -> None:
    outer = nn.Sequential(_Adds(), _Adds())
    seen: list[nn.Module] = []
    handles = []
    if hooked == "its own":
        handles = [outer[1].register_forward_hook(lambda module, *_: seen.append(module))]
    with memgraph.virtual_gpu("t4") as gpu:
        if hooked == "all":
            handles = [nn.modules.module.register_module_forward_pre_hook(lambda module, _: seen.append(module))]
        outer(torch.zeros(3, device="cuda"))
        for handle in handles:
            handle.remove()
    assert [op.module for op in named(gpu.trace, "add")] == ["0", "1"]
    assert seen == {"not": [], "its own": [outer[1]], "all": [outer, *outer]}[hooked]


def test_a_module_that_raised_is_not_running_any_more() -> None:
    called = nn.Module._call_impl
    outer = nn.Sequential(_Adds())
    with memgraph.virtual_gpu("t4") as gpu:
        outer(torch.zeros(3, device="cuda"))
        with pytest.raises(ValueError, match="as asked"):
            outer[0](torch.zeros(3, device="cuda"), fail=True)
        torch.zeros(3, device="cuda").add(2)
    assert [op.module for op in named(gpu.trace, "add")] == ["0", ""]
    assert nn.Module._call_impl is called
