"""What a run keeps from step to step is named by who holds it, and where: references are followed to the user's names.

Every program has a net of 512 → 1024 → 512 and a batch of 64 × 512 floats: an input, like an output, is 64 × 512 × 4 =
128 KiB, the hidden layer 256 KiB. The line that is to blame carries the mark `# here`.
"""

from __future__ import annotations

import textwrap
from pathlib import Path

import pytest

from benchmarks.workloads.loops import trace_of
from memgraph.analyze.finding import Finding
from memgraph.analyze.findings import findings
from memgraph.analyze.steps import steps
from memgraph.api import run_script
from memgraph.trace import Trace
from tests.capture.kept_elsewhere import ELSEWHERE
from tests.capture.kept_programs import ALIVE, GROWING, HEAD, LOADED, QUIET, Case
from tests.capture.quiet_further import QUIET_FURTHER

KIB = 2**10


def ran(folder: Path, program: str) -> Trace:
    """The program, on a card that is not there."""
    script = folder / "train.py"
    script.write_text(HEAD + textwrap.dedent(program))
    trace, ended = run_script(str(script), gpu="rtx3060")
    if ended.error is not None:
        raise ended.error
    return trace


def line_marked(program: str) -> int:
    lines = (HEAD + textwrap.dedent(program)).splitlines()
    return next(number for number, line in enumerate(lines, 1) if "# here" in line)


def only(trace: Trace) -> Finding:
    (found,) = findings(trace)
    return found


ALL = GROWING | ELSEWHERE


@pytest.mark.parametrize("name", ALL)
def test_what_grows_is_named_with_its_holder_and_its_line(name: str, tmp_path: Path) -> None:
    case: Case = ALL[name]
    trace = ran(tmp_path, case.program)
    found = only(trace)
    assert (found.name, found.bytes) == (case.finding, case.rate * KIB)
    assert case.holder in found.why
    assert found.where == f"{tmp_path.name}/train.py:{line_marked(case.program)}"
    assert case.help in found.help


@pytest.mark.parametrize("name", [*QUIET, *QUIET_FURTHER])
def test_nothing_is_said_of_a_program_that_keeps_nothing(name: str, tmp_path: Path) -> None:
    assert findings(ran(tmp_path, (QUIET | QUIET_FURTHER)[name])) == ()


def test_a_plain_loop_is_steady_after_the_step_that_makes_the_state(tmp_path: Path) -> None:
    """The optimizer makes its state at the end of the first step; more is alive in the backward of the second."""
    program = """
        opt = torch.optim.AdamW(net.parameters(), foreach=False)
        def step():
            net(torch.randn(8192, 512, device="cuda")).mean().backward()
            opt.step()
            opt.zero_grad()
        for _ in range(6): step()
    """
    found = steps(ran(tmp_path, program))
    assert found is not None
    assert (found.count, found.unit, found.rate, found.steady) == (6, "step", 0, 2)


def test_two_steps_are_too_few_for_a_verdict(tmp_path: Path) -> None:
    assert steps(ran(tmp_path, "for _ in range(2): net(batch()).mean().backward(); opt.step()")) is None


def test_how_many_more_steps_fit(tmp_path: Path) -> None:
    trace = ran(tmp_path, GROWING["a list of results"].program)
    found = steps(trace)
    assert found is not None
    assert found.left(trace) == (trace.memory - trace.peak.reserved) // (128 * KIB)


def test_looking_keeps_nothing_alive(tmp_path: Path) -> None:
    """A search reads the variables of functions, of which Python up to 3.12 makes copies: they must not outlive it."""
    program = """
        def train():
            for _ in range(4):
                x = batch()
                loss = net(x).mean()
                loss.backward()
                opt.step()
                opt.zero_grad()
                del x, loss
                batch()
        train()
    """
    trace = ran(tmp_path, program)
    made = [index for index, buffer in enumerate(trace.buffers) if trace.ops[buffer.op].name == "aten.randn.default"]
    inputs, probes = made[::2], made[1::2]
    assert len(probes) == 4
    assert all(trace.lives[x].stop < trace.lives[probe].start for x, probe in zip(inputs, probes, strict=True))


def test_tensors_inside_a_transform_are_looked_into(tmp_path: Path) -> None:
    """A search may fall into `torch.func.grad`, whose tensors have no storage themselves."""
    program = """
        from torch.func import functional_call, grad
        layer = nn.Linear(8, 4).cuda()
        weights, kept = {name: value.detach() for name, value in layer.named_parameters()}, []
        for _ in range(5):
            g = grad(lambda w: functional_call(layer, w, (torch.ones(2, 8, device="cuda"),)).sum())(weights)
            kept.append(torch.ones(1000, device="cuda"))
            weights = {name: value - 0.1 * g[name] for name, value in weights.items()}
    """
    trace = ran(tmp_path, program)
    assert trace.ops[-1].name == "aten.sub.Tensor"


def test_what_is_held_is_kept_in_the_file(tmp_path: Path) -> None:
    from memgraph import load

    trace = ran(tmp_path, GROWING["a summed loss"].program)
    trace.save(tmp_path / "t.memgraph")
    again = load(tmp_path / "t.memgraph")
    assert again.held == trace.held
    assert again.rounds == trace.rounds
    assert findings(again) == findings(trace)


def test_a_checkpoint_that_is_still_held_is_told(tmp_path: Path) -> None:
    program = LOADED.replace("RELEASE", "")
    found = only(ran(tmp_path, program))
    assert (found.name, found.bytes) == ("loaded-and-unread", 4102 * KIB)
    assert found.where == f"{tmp_path.name}/train.py:{line_marked(program)}"
    assert "4 tensors in `ck['model']`" in found.what
    assert "`del ck`" in found.help


def test_one_that_an_object_holds_is_let_go_of_there(tmp_path: Path) -> None:
    program = LOADED.replace("RELEASE", "class Run: pass\n    run = Run(); run.state = ck; del ck")
    found = only(ran(tmp_path, program))
    assert "4 tensors in `run.state['model']`" in found.what and "the attribute `run.state`" in found.why
    assert "`del run.state` once" in found.help


def test_weights_that_are_kept_and_never_read_are_told(tmp_path: Path) -> None:
    """512 × 1024 + 1024 + 1024 × 512 + 512 floats, taken after the first of four steps."""
    trace = ran(tmp_path, BEST)
    found = only(trace)
    assert (found.name, found.bytes) == ("loaded-and-unread", 4102 * KIB)
    assert "between steps 1 and 2" in found.what and "`best`" in found.why and "`.cpu()`" in found.help


BEST = """
    for step in range(4):
        net(batch()).mean().backward(); opt.step(); opt.zero_grad()
        if step == 0: best = {name: value.detach().clone() for name, value in net.state_dict().items()}
"""


@pytest.mark.parametrize("release", ["del ck", "ck = ck['step']", "other = nn.Linear(512, 512).cuda(); del ck"])
def test_one_that_was_let_go_is_not(release: str, tmp_path: Path) -> None:
    assert findings(ran(tmp_path, LOADED.replace("RELEASE", release))) == ()


def test_what_a_step_reads_through_a_view_is_read(tmp_path: Path) -> None:
    program = """
        data = torch.randn(4096, 512, device="cuda")
        rows = data.view(64, 64, 512)
        for i in range(3):
            net(rows[i]).mean().backward(); opt.step(); opt.zero_grad()
    """
    assert findings(ran(tmp_path, program)) == ()


def test_the_graph_of_the_step_before_beside_the_next_is_told(tmp_path: Path) -> None:
    """The input, the hidden layer and the result of the call before: 128 + 256 + 128 MiB."""
    program = ALIVE.replace("GRAD", "")
    found = only(ran(tmp_path, program))
    assert (found.name, found.bytes) == ("two-steps-alive", 512 * KIB * KIB)
    assert found.where == f"{tmp_path.name}/train.py:{line_marked(program)}"
    assert "the autograd graph behind the variable `out`" in found.why
    assert "`del out`" in found.help and "torch.no_grad()" in found.help


@pytest.mark.parametrize(
    ("name", "told"), [("adapters", ["logits-in-fp32"]), ("gan", []), ("recommender", ["foreach-temporaries"])]
)
def test_nothing_is_said_to_grow_in_recorded_training_loops(name: str, told: list[str]) -> None:
    """Three of the 31 of benchmarks/workloads: nothing stays in them, and only what most of a peak is gets told."""
    assert [finding.name for finding in findings(trace_of(name))] == told


def test_a_view_that_torch_refuses_to_look_at_is_passed_over(tmp_path: Path) -> None:
    """One of several views, whose base was changed in place: its `is_leaf` and `grad_fn` raise."""
    program = """
    left, right = (net[0].weight * 2).chunk(2)
    left._base.mul_(3)
    for _ in range(4):
        (net[0].weight * 2).sum().backward()
        opt.step()
        cycle = [left]
        cycle.append(cycle)
    """
    assert findings(ran(tmp_path, program)) == ()


def test_containers_are_read_as_they_lie_whatever_their_class_makes_of_them(tmp_path: Path) -> None:
    """A mapping that imports what it holds when it is asked for its items, as transformers' do, and a lazy list."""
    program = """
    class Lazy(dict):
        def items(self):
            raise ValueError("every model would be imported")
    class Rows(list):
        def __iter__(self):
            raise ValueError("every row would be read")
    kept = Lazy(rows=Rows())  # here
    for _ in range(4):
        dict.__getitem__(kept, "rows").append(torch.zeros(64, 512, device="cuda"))
        net(batch()).sum().backward()
        opt.step()
        opt.zero_grad()
    """
    found = only(ran(tmp_path, program))
    assert (found.bytes, found.where) == (128 * KIB, f"{tmp_path.name}/train.py:{line_marked(program)}")
    assert "kept" in found.why
