"""A step through `torch.compile` on the virtual GPU: what it allocates, what is said of it, and that nothing stays."""

from __future__ import annotations

import gzip
import importlib
import importlib.util
import json
import os
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import memgraph
from memgraph.capture.session import torch_version
from memgraph.errors import MemgraphError, UsageError
from memgraph.options import Options
from memgraph.trace import Category, Trace

if importlib.util.find_spec("triton") is None:
    pytest.skip("torch.compile for a GPU needs the triton package, which is not here", allow_module_level=True)

ROWS, WIDTH, WIDE = 4096, 64, 1024
ACTIVATION = ROWS * WIDE * 4
"""Bytes of what the wide layer makes of a batch, fp32."""


class Model(nn.Module):
    """Two products with an activation of three steps between them."""

    def __init__(self, talks: bool = False) -> None:
        super().__init__()
        self.up, self.down = nn.Linear(WIDTH, WIDE), nn.Linear(WIDE, WIDTH)
        self.talks = talks

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.up(x)
        if self.talks:
            print(end="")
        x = x.sin().cos().exp()
        return self.down(x).square().mean()


def run(compiled: Callable[[Any], Any], *rows: int, model: nn.Module | None = None) -> Trace:
    """A step for each number of rows."""
    with memgraph.virtual_gpu("rtx3090") as gpu:
        own = (model or Model()).cuda()
        call = compiled(own)
        optimizer = torch.optim.SGD(own.parameters(), lr=0.1)
        for number in rows or (ROWS, ROWS):
            call(torch.randn(number, WIDTH, device="cuda")).backward()
            optimizer.step()
            optimizer.zero_grad()
        trace = gpu.trace
    trace.self_check()
    return trace


@pytest.fixture(scope="module")
def step() -> Trace:
    return run(torch_compile)


def torch_compile(model: Any, **options: Any) -> Any:
    return torch.compile(model, **options)  # as a script says it, inside the block


def large(trace: Trace, phase: str, step: int = 2) -> list[str]:
    """What makes the wide activations of a phase."""
    return [
        trace.ops[buffer.op].name
        for buffer in trace.buffers
        if buffer.size == ACTIVATION and trace.phases[trace.ops[buffer.op].phase][:2] == (phase, step)
    ]


def test_eager_makes_each_result_and_compiled_two(step: Trace) -> None:
    # Eager: addmm, sin, cos, exp. Compiled: addmm, and one kernel for the other three, whose result down reads.
    eager = run(lambda model: model)
    assert large(eager, "forward") == [f"aten.{name}.default" for name in ("addmm", "sin", "cos", "exp")]
    assert large(step, "forward") == ["aten.addmm.default", "triton.fused_cos_exp_sin.kernel"]


def test_buffers_say_their_module_and_source(step: Trace) -> None:
    fused = next(op for op in step.ops if op.name == "triton.fused_cos_exp_sin.kernel")
    product = next(op for op in step.ops if op.name == "aten.addmm.default")
    assert (fused.module, product.module) == ("", "up")
    assert fused.source.startswith("capture/test_compiling.py:")
    assert {buffer.name for buffer in step.buffers if buffer.category is Category.PARAMETER} == {
        "up.weight", "up.bias", "down.weight", "down.bias"
    }  # fmt: skip


def test_phases_are_those_of_an_eager_step(step: Trace) -> None:
    names = [phase.name for phase in step.phases if phase.step == 1]
    assert names == ["input", "forward", "backward", "optimizer"]


def test_what_is_saved_is_what_the_backward_needs(step: Trace) -> None:
    # up's result, from which sin, cos and exp are computed again; and exp's, which down's weight gradient needs.
    made = step.compilation
    assert made is not None
    assert made.graphs == 2
    wide = [row for row in made.saved if row.shape == (ROWS, WIDE)]
    assert sum(row.size * row.count for row in wide) <= 2 * ACTIVATION
    assert dict(made.recomputed).keys() <= {"sin", "cos", "exp", "mul", "neg"}


def test_nothing_smaller_lives_at_the_eager_peak(step: Trace) -> None:
    assert step.peak.requested < run(lambda model: model).peak.requested


def test_the_first_launch_of_a_kernel_is_timed_with_a_buffer_of_the_cache(step: Trace) -> None:
    cache = 6 * 2**20  # the RTX 3090's L2
    trials = [buffer for buffer in step.buffers if step.ops[buffer.op].name == "timing.trial.kernel"]
    assert {buffer.size for buffer in trials} >= {cache}
    assert all(step.phases[step.ops[buffer.op].phase].step == 1 for buffer in trials)


@pytest.mark.parametrize("form", ["function", "in place"])
def test_other_ways_to_compile_are_the_same_step(step: Trace, form: str) -> None:
    def in_place(model: nn.Module) -> nn.Module:
        model.compile()
        return model

    def function(model: nn.Module) -> Any:
        return torch.compile(lambda x: model(x))

    other = run(function if form == "function" else in_place)
    assert [buffer.size for buffer in other.buffers] == [buffer.size for buffer in step.buffers]
    assert [phase[:2] for phase in other.phases] == [phase[:2] for phase in step.phases]
    assert {buffer.name for buffer in other.buffers} == {buffer.name for buffer in step.buffers}


def test_a_script_may_switch_the_compiler_off(step: Trace, monkeypatch: pytest.MonkeyPatch) -> None:
    """As scripts do at their head: what was imported before that has read the variable."""
    monkeypatch.setenv("TORCH_COMPILE_DISABLE", "1")
    trace = run(torch_compile)
    assert trace.compilation is None
    assert trace.peak.requested == run(lambda model: model).peak.requested > step.peak.requested


def test_a_graph_break_is_named_with_its_line() -> None:
    trace = run(torch_compile, model=Model(talks=True))
    assert trace.compilation is not None
    assert trace.compilation.graphs == 4
    (text,) = trace.compilation.breaks
    line = next(i for i, text in enumerate(Path(__file__).read_text().splitlines(), 1) if "print(end" in text)
    assert text.startswith(f"capture/test_compiling.py:{line}: ")


def test_fullgraph_refuses_a_graph_break() -> None:
    with pytest.raises(torch._dynamo.exc.Unsupported):
        run(lambda model: torch.compile(model, fullgraph=True), model=Model(talks=True))
    assert torch.compile.__module__ == "torch"


def test_sizes_that_change_are_compiled_once_more_and_then_no_more() -> None:
    # The second size is a new pair of graphs, with a symbol for it, which the third shares.
    trace = run(torch_compile, ROWS, ROWS // 2, 3 * ROWS // 4)
    assert trace.compilation is not None
    assert trace.compilation.graphs == 4
    sizes = [buffer.size for buffer in trace.buffers if trace.phases[trace.ops[buffer.op].phase][:2] == ("forward", 3)]
    assert sizes.count(3 * ACTIVATION // 4) == 2


def test_a_function_that_cannot_be_compiled_runs_eagerly_and_is_named() -> None:
    def refuse(_graph: Any, _inputs: Any) -> Any:
        raise RuntimeError("no backend for this")

    trace = run(lambda model: torch.compile(model, backend=refuse))
    assert large(trace, "forward") == [f"aten.{name}.default" for name in ("addmm", "sin", "cos", "exp")]
    assert "which runs eagerly: RuntimeError: no backend for this" in trace.assumptions[0]
    assert "capture/test_compiling.py:" in trace.assumptions[0]


def test_pools_of_cuda_graphs_are_bounded() -> None:
    """cuBLAS's workspace on an RTX 3090, 8,519,680 bytes, is in a segment of 20 MiB; the generator's in one of 2 MiB.
    Beside them forward and backward each hold two wide activations, and little else: two small segments at most. What
    the backward reads of the batch itself, 4096 × 64 × 4 = 1 MiB, is at no fixed address, and since torch 2.15 it is
    copied for its graph too (`static_input_idxs` in torch/_inductor/compile_fx.py): one segment more."""
    trace = run(lambda model: torch.compile(model, mode="reduce-overhead"))
    assert trace.compilation is not None
    little = (6 if torch_version() >= (2, 15) else 4) * 2**20
    assert 4 * ACTIVATION <= trace.compilation.pools - 22 * 2**20 <= 4 * ACTIVATION + little
    assert trace.compilation.pools % 2**21 == 0
    assert any("CUDA graphs" in text for text in trace.assumptions)


def compile_and_fail() -> None:
    with memgraph.virtual_gpu("rtx3090"):
        model = torch.compile(Model().cuda())
        model(torch.randn(ROWS, WIDTH, device="cuda")).backward()
        raise ZeroDivisionError


def test_nothing_of_it_stays(step: Trace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from torch._dynamo import convert_frame, device_interface
    from torch._inductor import async_compile, compile_fx
    from torch._inductor.runtime import triton_heuristics

    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path / "caches"))
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    owners: list[tuple[Any, str]] = [
        (torch, "compile"), (torch._C._dynamo.guards, "_empty_strided_cuda"), (convert_frame, "_compile"),
        (device_interface.CudaInterface, "current_device"), (device_interface.CudaInterface, "get_device_properties"),
        (async_compile.AsyncCompile, "triton"), (compile_fx, "_compile_fx_inner"), (compile_fx, "cudagraphify"),
        (triton_heuristics.CachingAutotuner, "run"), (torch._subclasses, "FakeTensor"), (torch.cuda, "current_device"),
    ]  # fmt: skip
    before = [getattr(owner, name) for owner, name in owners]
    assert not any("memgraph" in str(getattr(value, "__module__", "")) for value in before)
    modules = {name for name in sys.modules if "compile_tasks." in name}
    with pytest.raises(ZeroDivisionError):
        compile_and_fail()
    assert [getattr(owner, name) for owner, name in owners] == before
    assert device_interface.CudaInterface.current_device.__module__ == "torch.cuda"
    assert {name for name in sys.modules if "compile_tasks." in name} == modules
    assert os.environ["TORCHINDUCTOR_CACHE_DIR"] == str(tmp_path / "caches")
    assert not any(tmp_path.iterdir())
    assert torch._inductor.config.fx_graph_cache
    compiled = torch.compile(lambda x: x + 1, backend="aot_eager")
    assert compiled(torch.ones(2)).tolist() == [2, 2]


def test_two_predictions_in_a_process_are_equal(step: Trace) -> None:
    again = run(torch_compile)
    assert [buffer.size for buffer in again.buffers] == [buffer.size for buffer in step.buffers]
    assert again.events == step.events


def test_what_was_timed_on_one_card_is_not_remembered_for_another() -> None:
    class Odd(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.head = nn.Linear(64, 4097, bias=False)  # rows of 4097 elements start at no multiple of 16 bytes

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.head(x).square().mean()

    first, second = (run(torch_compile, model=Odd()) for _ in range(2))
    assert any("as it is and padded" in text for text in first.assumptions)
    assert first.assumptions == second.assumptions
    assert first.events == second.events


def test_without_triton_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    found = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *rest: None if name == "triton" else found(name))
    with memgraph.virtual_gpu("rtx3090"), pytest.raises(MemgraphError, match=r"pip install 'memgraph\[compile\]'"):
        torch.compile(Model())


def test_a_trace_keeps_what_was_compiled(step: Trace, tmp_path: Path) -> None:
    step.save(tmp_path / "step.memgraph")
    assert memgraph.load(tmp_path / "step.memgraph").compilation == step.compilation
    data = json.loads(gzip.decompress((tmp_path / "step.memgraph").read_bytes()))
    assert "compilation" in data


class Checkpointed(Model):
    """The same with its wide part checkpointed, and dropout, whose random numbers have to come back."""

    def wide(self, x: torch.Tensor) -> torch.Tensor:
        return nn.functional.dropout(self.up(x).sin().cos().exp(), 0.1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        kept: torch.Tensor = torch.utils.checkpoint.checkpoint(self.wide, x, use_reentrant=False)
        return self.down(kept).square().mean()


class CheckpointedAttention(Checkpointed):
    """Attention's kernel draws numbers too, in an op that is called with them."""

    def wide(self, x: torch.Tensor) -> torch.Tensor:
        q = self.up(x).bfloat16().view(16, 256, 16, 64).transpose(1, 2)
        return nn.functional.scaled_dot_product_attention(q, q, q).transpose(1, 2).reshape(ROWS, WIDE).float()


SEEDS = pytest.mark.xfail(
    torch.__version__ >= "2.15",
    strict=True,
    reason="it asks the driver for a generator; docs/limits.md",
)


@pytest.mark.parametrize("model", [pytest.param(Checkpointed, marks=SEEDS), CheckpointedAttention])
def test_a_checkpoint_is_compiled_with_its_random_numbers(model: type[Model]) -> None:
    trace = run(torch_compile, model=model())
    assert not [note for note in trace.assumptions if "torch.compile" in note]
    made = trace.compilation
    assert made is not None and made.graphs == 2
    assert not [row for row in made.saved if row.shape == (ROWS, WIDE)]


def test_options_are_checked() -> None:
    with pytest.raises(UsageError, match="compile mode"):
        Options(compile="fast")
    with pytest.raises(UsageError, match="share"):
        Options(compile="default", activation_memory_budget=2.0)
    with pytest.raises(UsageError, match="--compile"):
        Options(activation_memory_budget=0.5)


@pytest.mark.parametrize("options", [{"max_autotune": True}, {"wrap_inductor_compiled_regions": True}], ids=str)
def test_compiled_attention_holds_no_scores(options: dict[str, Any]) -> None:
    """Its templates alone are tuned, and a wrapped region runs its wrapper: the output and its statistics, and in the
    backward a gradient of each input and a sum for each row. Scores in bf16 or fp32 are never there."""
    flex = importlib.import_module("torch.nn.attention.flex_attention")
    heads, length, width = 6, 768, 64
    with memgraph.virtual_gpu("h200") as gpu:
        attend = torch.compile(flex.flex_attention, options=options)
        query, key, value = (
            torch.zeros(1, heads, length, width, dtype=torch.bfloat16, device="cuda", requires_grad=True)
            for _ in range(3)
        )
        attend(query, key, value).sum().backward()
        assert query.grad is not None
    sizes = gpu.ledger.sizes
    assert not {heads * length * length * 2, heads * length * length * 4} & set(sizes)
    assert sizes.count(heads * length * width * 2) == 3 + 1 + 1 + 3  # inputs, output, its gradient, theirs
    assert sizes.count(heads * length * 4) == 3  # each row's sum, its gradient, output times gradient
    assert any("templates" in line for line in gpu.trace.assumptions) == ("max_autotune" in options)


def test_another_torch_compiles_another_step_which_is_said() -> None:
    """A Trainer's compiled Llama took 8 % more on an H200 with torch 2.11 than torch 2.13 compiles it to."""
    other = "2.13" if torch.__version__.startswith("2.11") else "2.11"
    for release, told in ((None, False), (other, True)):
        with memgraph.virtual_gpu("h200", torch=release) as gpu:
            torch.compile(torch.sin)(torch.ones(8, device="cuda"))
        assert any(line.startswith("what torch.compile makes is") for line in gpu.trace.assumptions) is told
