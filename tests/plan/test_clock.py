"""What a step takes: a host that issues, a card that runs, and what a checkpoint costs either."""

from __future__ import annotations

from collections.abc import Callable

from memgraph.gpu.specs import find
from memgraph.options import Options
from memgraph.plan.answer import Answer, Point
from memgraph.plan.clock import step_time
from memgraph.plan.cost import CALL, KERNEL, POLICY, REACHED, SAVED, UNALIGNED, HostCosts, Spent, costs
from memgraph.plan.plan_file import Plan, Region
from memgraph.plan.problem import Problem
from memgraph.plan.sections import Cut, Key, Section
from memgraph.render import table_checkpoint
from memgraph.trace import TensorSpec, Trace, Usage
from tests.conftest import Tape

GIB = 2**30


def run_of(tape: Tape, names: list[str]) -> Trace:
    """A step before the one that counts, and these ops in its forward."""
    tape.phase("forward", 1)
    tape.op("aten.mm.default")
    tape.phase("forward", 2)
    for name in names:
        tape.op(name)
    tape.phase("input", 3)  # begun, and nothing ran
    return tape.trace()


def test_the_slower_of_host_and_card_decides(tape: Tape) -> None:
    run = run_of(tape, ["aten.mm.default"] * 5)
    assert step_time(run, [Spent(10, 3)] * 6) == 5 * 10 + 3  # the card idles, and ends after the last is issued
    assert step_time(run, [Spent(3, 10)] * 6) == 3 + 5 * 10  # the host runs ahead
    assert step_time(run, [Spent(9, 9)] + [Spent(3, 0)] * 5) == 5 * 3  # views


def test_the_host_runs_ahead_until_it_asks_for_a_value(tape: Tape) -> None:
    run = run_of(tape, ["aten.mm.default", "aten._local_scalar_dense.default", "aten.mm.default"])
    # issued at 1 and run until 101; the question is answered at 102; issued at 103 and run until 203
    assert step_time(run, [Spent(1, 100), Spent(1, 100), Spent(1, 1), Spent(1, 100)]) == 203


def selective(tape: Tape, keep: str) -> list[int]:
    """The host's time for a view, a product, what a recomputation brings back, and a gradient's hand-over."""
    tape.phase("forward", 1)
    tape.op("aten.view.default", "a.0", "model.py:1")
    product = tape.op("aten.mm.default", "a.0", "model.py:1")
    tape.phase("backward", 1)
    tape.op("aten.mm.default", "a.0", "model.py:1")
    tape.op("aten.detach.default", "a.0", "model.py:1")
    tape.op("aten.mm.default", "a.0", "model.py:1", forward=product)
    tape.op("aten.detach.default", "a.0")
    run = tape.trace(settings={"checkpoint": Plan((Region(("a",), keep),)).text})
    return [spent.host for spent in costs(find("h200"), HostCosts.of())(run)]


def test_whole_regions_pay_for_what_they_bring_back(tape: Tape) -> None:
    assert selective(tape, "nothing") == [CALL, CALL, CALL, round(CALL + CALL * SAVED), CALL, CALL]


def test_policies_are_asked_at_each_call_of_forward_and_recomputation(tape: Tape) -> None:
    asked, brought = round(CALL + CALL * POLICY), round(CALL + CALL * SAVED)
    assert selective(tape, "matmuls") == [asked, asked, asked, brought, CALL, CALL]


def test_a_slower_host_pays_in_proportion() -> None:
    assert HostCosts.of(2 * CALL) == tuple(2 * price for price in HostCosts.of())


def answer(best: Point | None) -> Answer:
    """Of a model of four blocks and a budget of 2 GiB."""
    base = Point(Plan(), 3 * GIB, Usage(3 * GIB, 3 * GIB, 4 * GIB), False, 0.0, "the loss (backward)")
    problem = Problem(tuple(f"blocks.{place}" for place in range(4)), (), (), (), 1)
    return Answer(Options(gpu="rtx3090"), 2 * GIB, base, best, best or base, (), problem, (4,), 1, 5)


def test_the_plan_as_text(golden: Callable[[str, str], None]) -> None:
    regions = (
        Region(("blocks.0",)), Region(("blocks.1",), "attention"), Region(("blocks.2", "blocks.3")),
    )  # fmt: skip
    best = Point(
        Plan(regions, 8), GIB, Usage(GIB, GIB, 3 * GIB // 2), True, 0.345, "the backward of blocks.1"
    )  # fmt: skip
    golden("checkpoint.txt", table_checkpoint.report(answer(best)))


def test_no_plan_as_text(golden: Callable[[str, str], None]) -> None:
    golden("checkpoint_does_not_fit.txt", table_checkpoint.report(answer(None)))


def test_where_the_card_decides_the_hosts_time_is_hidden() -> None:
    """A stack of two blocks that is issued in 5 + 5 and run in 8 + 3; another that is issued in 9 and run in 8."""
    keys = [Key(owner, "forward", 1, "") for owner in ("a.0", "a.1", "b.0")]
    times = zip(keys, (5, 5, 9), (8, 3, 8), strict=True)
    cut = Cut(tuple(Section(key, host=host, device=device) for key, host, device in times), ())
    assert cut.card_decides({"a.0", "a.1"}) and not cut.card_decides({"b.0"})
    assert [section.nanoseconds for section in cut.sections] == [8, 5, 9]
    assert [section.nanoseconds for section in cut.of_the_card({"a.0", "a.1"}).sections] == [8, 3, 9]


def product(tape: Tape, columns: int, transposed: bool = False) -> int:
    """The card's time for a bf16 product of 4,096 x 576 by 576 x `columns`."""
    tape.phase("forward", 1)
    left = tape.op("aten.relu.default")
    right = tape.op("aten.t.default" if transposed else "aten.relu.default")
    shapes = ((4096, 576), (576, columns), (4096, columns))
    one, other, out = (TensorSpec(shape, "bfloat16") for shape in shapes)
    tape.op("aten.mm.default", inputs=(one, other), outputs=(out,), reads=(left, right))
    return costs(find("h200"), HostCosts.of())(tape.trace())[-1].device


def test_rows_of_no_multiple_of_16_bytes_take_an_old_kernel(tape: Tape) -> None:
    """2 x 4,096 x 576 x 49,153 operations at 109e12 a second; aligned they are done at 66 % of 989e12."""
    flops = 2 * 4096 * 576 * 49153
    assert product(tape, 49153) == KERNEL + round(1e9 * flops / UNALIGNED)
    assert product(tape, 49152) == KERNEL + round(1e9 * (flops - 2 * 4096 * 576) / (0.66 * find("h200").half_rate))
    assert product(tape, 576, transposed=True) < product(tape, 577, transposed=True)


def test_kernels_reach_what_their_kind_reaches(tape: Tape) -> None:
    """2 MiB in and 2 MiB out at the share of 4.8 TB/s; a view takes nothing."""
    tape.phase("forward", 1)
    spec = TensorSpec((2**20,), "bfloat16")
    for name in ("mul.Tensor", "clone.default", "_softmax.default", "view.default"):
        tape.op(f"aten.{name}", inputs=(spec,), outputs=(spec,))
    spent = [one.device for one in costs(find("h200"), HostCosts.of())(tape.trace())]
    moved = 1e9 * 4 * 2**20 / 4.8e12
    assert spent == [KERNEL + round(moved / REACHED[kind]) for kind in ("pointwise", "copy", "reduction")] + [0]
