"""What a step takes: a host that issues, a card that runs, and what a checkpoint costs either."""

from __future__ import annotations

from collections.abc import Callable

from memgraph.gpu.specs import find
from memgraph.options import Options
from memgraph.plan.answer import Answer, Point
from memgraph.plan.clock import step_time
from memgraph.plan.cost import CALL, POLICY, SAVED, HostCosts, Spent, costs
from memgraph.plan.plan_file import Plan, Region
from memgraph.plan.problem import Problem
from memgraph.render import table_checkpoint
from memgraph.trace import Trace, Usage
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
