"""Times measured on a card in the place of the roofline: their file, what they change, how the profiler is read."""

from __future__ import annotations

import dataclasses
import itertools
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from click.testing import CliRunner, Result
from hypothesis import given
from hypothesis import strategies as st
from torch.profiler import ProfilerActivity, profile

import memgraph
from memgraph.capture.real import timing
from memgraph.cli.main import main
from memgraph.errors import MemgraphError, UsageError
from memgraph.gpu.specs import find
from memgraph.options import Options
from memgraph.plan.cost import KERNEL, HostCosts, Spent, costs, measured
from memgraph.plan.times import Measured, MeasuredTimes, Row, load_times, parse_times
from memgraph.render import checkpoint_json, table_checkpoint
from memgraph.trace import Op, Phase, TensorSpec, Trace
from tests.conftest import Tape

H200 = MeasuredTimes("NVIDIA H200", "2.11.0", "bf16", "float32")
PRODUCT = ((4096, 576), (576, 576))


def with_rows(*rows: Row) -> MeasuredTimes:
    return dataclasses.replace(H200, rows=rows)


def run_of(*ops: tuple[str, tuple[tuple[int, ...], ...]]) -> Trace:
    """A step that runs these ops on tensors of these shapes, all of them float32."""
    return dataclasses.replace(Tape().trace(), phases=(Phase("forward", 1, 0, 0),), ops=tuple(
        Op(f"aten.{name}.default", 0, inputs=tuple(TensorSpec(shape, "float32") for shape in shapes))
        for name, shapes in ops
    ))  # fmt: skip


RUN = run_of(
    ("mm", PRODUCT), ("mm", PRODUCT[::-1]), ("bmm", PRODUCT), ("view", PRODUCT[:1]), ("mul", (PRODUCT[0], ())),
    ("cat", PRODUCT), ("add", ((), ())),
)  # fmt: skip


def device(times: MeasuredTimes | None) -> list[int]:
    return [spent.device for spent in costs(find("h200"), HostCosts.of(), times)(RUN)]


def test_what_was_measured_takes_the_place_of_the_roofline_and_nothing_else_does() -> None:
    rows = [
        Row("mm", PRODUCT, 4, 100.0), Row("view", PRODUCT[:1], 1, 9.0), Row("mul", PRODUCT[:1], 3, 0.0),
        Row("cat", PRODUCT[:1], 1, 9.0), Row("add", (), 1, 9.0),
    ]  # fmt: skip
    now = device(with_rows(*rows))
    # 100 us for 4 calls; a view is none whatever a file says; `mul` launched nothing; the others are not in the file
    assert now == [25_000, *device(None)[1:3], 0, 0, *device(None)[5:]]
    assert device(None)[5] > KERNEL


def test_the_host_takes_what_it_took() -> None:
    def host(times: MeasuredTimes | None) -> list[Spent]:
        return [spent._replace(device=0) for spent in costs(find("h200"), HostCosts.of(), times)(RUN)]

    assert host(with_rows(Row("mm", PRODUCT, 4, 100.0))) == host(None)


def test_how_many_ops_were_measured_is_counted_without_views() -> None:
    # all but the view; of them the first `mm` and `mul`, whose number is no tensor with a shape
    found = measured(RUN, with_rows(Row("mm", PRODUCT, 4, 100.0), Row("mul", PRODUCT[:1], 1, 1.0)))
    assert found == Measured("NVIDIA H200", 2, 6)
    assert measured(RUN, H200).ops == 0


shapes = st.lists(st.lists(st.integers(1, 2**40), min_size=1, max_size=5).map(tuple), max_size=4).map(tuple)
some_rows = st.builds(
    Row, st.text(max_size=9), shapes, st.integers(1, 10**6), st.floats(0, 1e12, allow_nan=False, allow_infinity=False)
)


@given(st.lists(some_rows, max_size=4))
def test_a_file_holds_what_was_measured(rows: list[Row]) -> None:
    times = with_rows(*rows)
    assert parse_times(times.text) == times


def test_a_file_is_written_once(tmp_path: Path) -> None:
    path = tmp_path / "times.json"
    with_rows(Row("mm", PRODUCT, 1, 2.5)).save(path)
    assert load_times(path).of("mm", [*PRODUCT, ()]) == 2_500
    with pytest.raises(UsageError, match="exists"):
        H200.save(path)


def changed(**fields: Any) -> str:
    return json.dumps({**json.loads(H200.text), **fields})


@pytest.mark.parametrize(
    "text",
    ["", "[]", "{}", "[" * 100_000, changed(kind="checkpoint plan"), changed(gpu=1), changed(schema="1"),
     changed(rows=1), changed(rows=[["mm", [], 1]]), changed(rows=[["mm", [], 0, 1.0]]),
     changed(rows=[[1, [], 1, 1.0]]), changed(rows=[["mm", [[-1]], 1, 1.0]]), changed(rows=[["mm", [[True]], 1, 1.0]]),
     changed(rows=[["mm", [8], 1, 1.0]]), changed(rows=[["mm", [], 1, -1.0]]), changed(rows=[["mm", [], 1, "1"]]),
     changed(rows=[["mm", [], 1.5, 1.0]]), changed(rows=[["mm", [], 1, float("nan")]])],
)  # fmt: skip
def test_what_holds_no_times_is_said_in_one_line(text: str) -> None:
    with pytest.raises(UsageError, match=r"times\.json holds no measured times: write it with") as error:
        parse_times(text, "times.json")
    assert "\n" not in str(error.value)


def test_newer_and_missing_files_are_refused() -> None:
    with pytest.raises(UsageError, match=r"newer memgraph \(schema 2\): update"):
        parse_times(changed(schema=2))
    with pytest.raises(UsageError, match=r"nowhere\.json cannot be read"):
        load_times("nowhere.json")


# The command.

MODEL = ["checkpoint", "--model", "tests.plan.planned_models:seven", "--batch", "8"]


def planned(tmp_path: Path, times: MeasuredTimes | str, *more: str) -> Result:
    path = tmp_path / "times.json"
    path.write_text(times if isinstance(times, str) else times.text)
    return CliRunner().invoke(main, [*MODEL, "--times", str(path), *more])


@pytest.mark.parametrize(
    ("times", "more", "said"),
    [
        (H200, ["--gpu", "h100"], "measured on NVIDIA H200, and the plan is for NVIDIA H100 80GB HBM3: add --gpu h200"),
        (dataclasses.replace(H200, gpu="NVIDIA None"), ["--gpu", "h200"], "which is not in `memgraph gpus`"),
        (H200, ["--gpu", "h200", "--amp", "none"], "--amp bf16 --dtype float32, and the plan is for --amp none"),
        ("{}", ["--gpu", "h200"], "holds no measured times"),
        (changed(schema=2), ["--gpu", "h200"], "was written by a newer memgraph"),
    ],
)  # fmt: skip
def test_times_that_are_of_no_use_are_refused_in_one_line(
    tmp_path: Path, times: MeasuredTimes | str, more: list[str], said: str
) -> None:
    result = planned(tmp_path, times, *more)
    assert (result.exit_code, len(result.output.splitlines())) == (2, 1), result.output
    assert said in result.output


def test_the_answer_says_how_much_was_measured_and_its_price_is_that() -> None:
    """Each of seven blocks multiplies its input of width 64 by one scale, and its gradient in the backward: 14
    products, beside which nothing else takes time. A block that is recomputed does one again, unless it
    keeps that result."""
    times = with_rows(Row("mul", ((8, 64, 64), (8, 64, 1)), 2, 2e6))
    options = Options(model="tests.plan.planned_models:seven", batch=8, gpu="h200")
    answer = memgraph.plan_checkpoints(options, minimize="memory", times=times)
    assert answer.measured is not None and answer.measured.ops == 14 < answer.measured.of
    assert checkpoint_json.report(answer)["measured"] == {"gpu": "NVIDIA H200", "ops": 14, "of": answer.measured.of}
    assert answer.best is not None
    again = [region for region in answer.best.plan.regions if "mul" not in region.keep]
    assert len(again) >= 5 and answer.best.share == pytest.approx(len(again) / 14, abs=0.001)
    said = f"; time as measured on NVIDIA H200 for 14 of {answer.measured.of} ops besides views, by a roofline for "
    said += "the others, and a host that takes 12.1 us an op."
    assert table_checkpoint.report(answer).replace("\n", " ").endswith(said)


def test_the_command_takes_them(tmp_path: Path) -> None:
    result = planned(tmp_path, with_rows(Row("mul", ((8, 64, 64), (8, 64, 1)), 1, 1.0)), "--gpu", "h200")
    assert result.exit_code == 0 and "time as measured on NVIDIA H200 for 14 of" in result.output.replace("\n", " ")


# The profiler.


def event(name: str, input_shapes: Any, *children: Any, us: tuple[float, ...] = (), **more: Any) -> Any:
    kernels = [SimpleNamespace(name="kernel", duration=duration) for duration in us]
    return SimpleNamespace(name=name, input_shapes=input_shapes, kernels=kernels, cpu_children=list(children), **more)


def events_of(*roots: Any) -> list[Any]:
    return [one for root in roots for one in (root, *events_of(*root.cpu_children))]


def test_a_call_takes_what_is_below_it_too() -> None:
    copy = event("aten::copy_", [[8, 4], [8, 4], []], us=(2.0,))
    cast = event("aten::_to_copy", [[8, 4], [], []], event("aten::empty_strided", [[], []]), copy)
    product = event("aten::mm", [[8, 4], [4, 2]], us=(3.0, 0.5))
    found = timing.rows(
        events_of(event("autograd::engine::evaluate_function: MmBackward0", [], cast, product, product))
    )
    assert found == [
        ("_to_copy", ((8, 4),), 1, 2.0), ("copy_", ((8, 4), (8, 4)), 1, 2.0), ("mm", ((8, 4), (4, 2)), 2, 7.0)
    ]  # fmt: skip


def test_lists_of_tensors_are_told_apart_where_torch_says_what_is_in_them() -> None:
    lists = event("aten::cat", [[], []], us=(4.0,), structured_input_shapes=[[[2, 4], [], [3, 4]], []])
    older = event("aten::cat", [[], []], us=(5.0,))
    assert timing.rows([lists, older]) == [("cat", ((2, 4), (3, 4)), 1, 4.0)]


def test_autocasts_own_event_is_not_the_ops() -> None:
    cast = event("aten::_to_copy", [[8, 4]], us=(2.0,))
    inner = event("aten::bmm", [[8, 4], [4, 2]], us=(3.0,))
    found = timing.rows(events_of(event("aten::bmm", [[8, 4], [4, 2]], cast, inner)))
    assert found == [("_to_copy", ((8, 4),), 1, 2.0), ("bmm", ((8, 4), (4, 2)), 1, 3.0)]


def test_calls_on_the_hosts_memory_are_none_of_the_cards() -> None:
    on_card, on_host = event("aten::add", [[8]], us=(2.0,)), event("aten::add", [[8]])
    assert timing.rows([on_card, on_host, on_card]) == [("add", ((8,),), 2, 4.0)]
    assert timing.rows([event("aten::empty_like", [[8]])] * 2) == [("empty_like", ((8,),), 2, 0.0)]


def test_the_events_of_this_torch_are_read() -> None:
    """A processor launches no kernel; names and shapes are as on a card."""
    model, x = torch.nn.Linear(8, 4), torch.ones(2, 8)
    with profile(activities=[ProfilerActivity.CPU], record_shapes=True) as profiler:
        torch.cat([model(x), torch.ones(3, 4)]).sum().backward()
    events = list(profiler.events() or ())
    found = {(name, shapes): (count, us) for name, shapes, count, us in timing.rows(events)}
    assert found["addmm", ((4,), (2, 8), (8, 4))] == (1, 0.0)
    says_what_is_in_lists = hasattr(events[0], "structured_input_shapes")  # from torch 2.12 on
    assert found.get(("cat", ((2, 4), (3, 4)))) == ((1, 0.0) if says_what_is_in_lists else None)
    assert found["mm", ((4, 2), (2, 8))] == (1, 0.0)


class Profiler:
    """In the place of torch's; the events that came while it was open."""

    def __init__(self, **_: Any) -> None:
        self.seen: list[Any] = []
        self.open = False

    def __enter__(self) -> Profiler:
        self.open = True
        return self

    def __exit__(self, *_: object) -> None:
        self.open = False

    def events(self) -> list[Any]:
        return self.seen


@pytest.fixture
def profiler(monkeypatch: pytest.MonkeyPatch) -> Profiler:
    made = Profiler()
    monkeypatch.setattr(timing, "profile", lambda **_: made)
    monkeypatch.setattr(torch.cuda, "synchronize", lambda: None)
    return made


def test_only_the_last_step_is_timed(profiler: Profiler) -> None:
    def run(mark: Any) -> None:
        for step, phase in itertools.product(range(3), ("input", "forward")):
            mark(phase)
            if profiler.open:
                profiler.seen.append(event("aten::add", [[8]], us=(step,)))

    assert timing.time_last_step(run, 3) == [("add", ((8,),), 2, 4.0)]
    assert not profiler.open


def test_a_profiler_that_sees_no_kernel_is_said(profiler: Profiler) -> None:
    profiler.seen = [event("aten::add", [[8]])]
    with pytest.raises(MemgraphError, match="saw no kernel"):
        timing.time_last_step(lambda mark: mark("input"), 1)


# `memgraph record --times`


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    return tmp_path


def record(*arguments: str) -> Result:
    return CliRunner().invoke(main, ["record", "-o", "real.memgraph", *arguments])


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["--times", "times.json"], 1, "no GPU is visible"),
        (["--times", "real.memgraph"], 2, "name the same file"),
        (["--times", "taken.json"], 2, "taken.json exists"),
        (["--times", "times.json", "train.py"], 2, "train.py is a script"),
        (["--times", "times.json", "--compile", "default"], 2, "a compiled step has kernels of its own"),
    ],
)
def test_what_cannot_be_timed_is_said_in_one_line(here: Path, arguments: list[str], code: int, said: str) -> None:
    (here / "taken.json").write_text("mine")
    result = record(*arguments)
    assert (result.exit_code, len(result.output.splitlines())) == (code, 1), result.output
    assert said in result.output
    assert list(here.iterdir()) == [here / "taken.json"]


def test_without_a_gpu_python_is_told_too(here: Path) -> None:
    from memgraph.api import record_times

    with pytest.raises(MemgraphError, match="no GPU is visible"):
        record_times(Options())


def test_the_times_come_after_the_recording(here: Path, monkeypatch: pytest.MonkeyPatch, toy: Trace) -> None:
    """The trace is on disk before the profiler is there; a run that failed is not timed."""
    from memgraph import api
    from memgraph.capture.ended import Ended

    ends = [Ended(0)]
    seen: list[tuple[bool, int]] = []

    def times(options: Options) -> MeasuredTimes:
        seen.append(((here / "real.memgraph").exists(), options.batch))
        return with_rows(Row("mm", PRODUCT, 3, 1.0))

    monkeypatch.setattr(api, "record_steps", lambda *_, **__: (toy, ends[-1]))
    monkeypatch.setattr(api, "record_times", times)
    result = record("--batch", "3", "--times", "times.json")
    assert (result.exit_code, seen) == (0, [(True, 3)]), result.output
    assert "3 calls timed on NVIDIA H200, told apart by op and shapes: 1 rows in times.json" in result.output
    assert load_times("times.json").rows == (Row("mm", PRODUCT, 3, 1.0),)
    ends.append(Ended(1, error=ValueError("no")))
    assert record("--force", "--times", "times.json").exit_code == 1 and len(seen) == 1
