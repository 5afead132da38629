"""Checkpoint plans: what is foreseen is what is traced, and the plan chosen is the cheapest there is."""

from __future__ import annotations

import dataclasses
import functools
import itertools
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from memgraph.api import predict
from memgraph.errors import UsageError
from memgraph.options import Options
from memgraph.plan import milp, solve
from memgraph.plan.plan_file import Plan, Region, load_plan, parse_plan
from memgraph.plan.problem import Moment, Once, Option, Problem
from memgraph.plan.solve import cheapest, least_memory
from memgraph.plan.tidy import tidy
from memgraph.study.planner import Planner

Choice = tuple[int, ...]


@functools.cache
def planner(model: str) -> Planner:
    """The problem of one of the small models, from its traces."""
    found = Planner(Options(model=f"tests.plan.planned_models:{model}", gpu="rtx3090", batch=32))
    found._prepare()
    return found


def numbers(problem: Problem, kind: str) -> dict[str, int]:
    """Options of one kind, by the candidate that they cover alone."""
    return {o.covers[0]: n for n, o in enumerate(problem.options) if o.kind == kind and len(o.covers) == 1}


def numbers_of(problem: Problem, name: str) -> list[int]:
    """Options that cover this candidate alone."""
    return [number for number, option in enumerate(problem.options) if option.covers == (name,)]


def some_choice(problem: Problem, seed: int) -> Choice:
    """Any options that do not overlap."""
    draw, free, chosen = random.Random(seed), set(problem.candidates), []
    for number in draw.sample(range(len(problem.options)), len(problem.options)):
        if free.issuperset(problem.options[number].covers) and draw.random() < 0.7:
            chosen.append(number)
            free -= set(problem.options[number].covers)
    return tuple(sorted(chosen))


def test_every_subset_of_seven_blocks_peaks_where_it_was_foreseen() -> None:
    seven = planner("lean")
    single = list(numbers(seven.problem, "nothing").values())
    assert len(single) == 7
    subsets = [some for size in range(8) for some in itertools.combinations(single, size)]
    assert len(subsets) == 128
    points = [seven._point(choice) for choice in subsets]
    assert [point.predicted for point in points] == [point.peak.requested for point in points]
    assert len({point.predicted for point in points}) > 20  # they differ


@pytest.mark.parametrize("model", ["seven", "towers", "plain"])
def test_any_mix_of_policies_and_regions_peaks_where_it_was_foreseen(model: str) -> None:
    found = planner(model)
    points = [found._point(some_choice(found.problem, seed)) for seed in range(12)]
    assert [point.predicted for point in points] == [point.peak.requested for point in points]
    kinds = {region.keep for point in points for region in point.plan.regions}
    assert "nothing" in kinds and len(kinds) > 10
    if model != "towers":  # whose blocks have an op between them
        assert any(len(region.modules) > 1 for point in points for region in point.plan.regions)


def test_the_loss_in_chunks_is_an_option_of_the_same_problem() -> None:
    small = {"lm_n_blocks": "3", "vit_n_blocks": "2", "lm_base_vocab_size": "2000"}
    found = Planner(Options(batch=2, seq=128, gpu="h100", set=small))
    found._prepare()
    problem = found.problem
    assert [len(stack) for stack in found.found.stacks] == [2, 3]
    (chunks,) = (n for n, o in enumerate(problem.options) if o.kind == "8 chunks")
    blocks = list(numbers(problem, "nothing").values())
    for choice in [(chunks,), (chunks, *blocks), (chunks, blocks[1], blocks[-1]), tuple(blocks)]:
        point = found._point(tuple(sorted(choice)))
        assert point.predicted == point.peak.requested
        assert point.plan.loss_chunks == (8 if chunks in choice else 1)


def test_what_overlaps_the_loss_is_no_candidate_beside_it() -> None:
    """Of so few blocks, regions of the graph are candidates too; the head makes the logits that chunks are of."""
    small = {"lm_n_blocks": "2", "vit_n_blocks": "2"}
    found = Planner(Options(batch=2, seq=128, gpu="h100", set=small))
    found._prepare()
    assert "decoder.head" not in found._modules and "decoder.norm" in found._modules
    assert found.notes == [] and len(found.problem.options) > 100
    pair = ("decoder.rotary_embd", "decoder.blocks.0")
    points = [found._point((n,)) for n, option in enumerate(found.problem.options) if option.covers == pair]
    assert [point.predicted for point in points] == [point.peak.requested for point in points] != []


def test_stacks_and_regions_are_found() -> None:
    assert [[c.name for c in stack] for stack in planner("seven").found.stacks] == [[f"blocks.{i}" for i in range(7)]]
    assert [c.name for c in planner("towers").found.all] == [f"left.{i}" for i in range(3)] + [
        f"right.{i}" for i in range(4)
    ]
    plain = planner("plain").found.all
    assert 8 <= len(plain) <= 16
    together = [module for candidate in plain for module in candidate.modules]
    assert together == [f"features.{i}" for i in range(36)] + ["classify"]


# The solver.


def brute_force(problem: Problem, budget: int) -> int | None:
    """The least cost of all choices."""
    best = None
    for choice in every_choice(problem):
        if problem.peak(choice) <= budget and (best is None or problem.cost(choice) < best):
            best = problem.cost(choice)
    return best


def every_choice(problem: Problem) -> list[Choice]:
    """All that cover no candidate twice."""
    choices: list[tuple[Choice, frozenset[str]]] = [((), frozenset())]
    for number, option in enumerate(problem.options):
        covers = frozenset(option.covers)
        choices += [((*chosen, number), covered | covers) for chosen, covered in choices if not covered & covers]
    return [chosen for chosen, _ in choices]


def only(problem: Problem) -> Problem:
    """The problem with fewer options, small enough for brute force: keep nothing, the most, or a pair's first input."""
    most = [max(numbers_of(problem, name), key=lambda n: len(problem.options[n].kind)) for name in problem.candidates]
    kept = [n for n, o in enumerate(problem.options) if n in most or (o.kind == "nothing" and len(o.covers) <= 2)]
    place = {number: at for at, number in enumerate(kept)}
    moments = tuple(
        row._replace(effects=tuple((place[n], size) for n, size in row.effects if n in place))
        for row in problem.moments
    )
    onces = tuple(o._replace(options=frozenset(place[n] for n in o.options if n in place)) for o in problem.onces)
    return Problem(problem.candidates, tuple(problem.options[n] for n in kept), moments, onces, problem.step)


def test_at_sixty_budgets_the_cost_is_that_of_brute_force() -> None:
    problem = only(planner("seven").problem)
    choices = every_choice(problem)
    rows = [(problem.peak(choice), problem.cost(choice)) for choice in choices]
    low, high = min(rows)[0], problem.peak(())
    draw = random.Random(0)
    for budget in [low - 1, low, high, *(draw.randint(low, high) for _ in range(57))]:
        best = min((cost for peak, cost in rows if peak <= budget), default=None)
        for solver in (cheapest, milp.cheapest):
            found = solver(problem, budget)
            assert (None if found is None else problem.cost(found)) == best
            assert found is None or (problem.peak(found) <= budget and problem.allowed(found))


def test_the_least_memory_is_that_of_brute_force() -> None:
    problem = only(planner("seven").problem)
    least = min((problem.peak(choice), problem.cost(choice)) for choice in every_choice(problem))
    for solver in (least_memory, milp.least_memory):
        found = solver(problem)
        assert (problem.peak(found), problem.cost(found)) == least


@st.composite
def problems(draw: st.DrawFn) -> Problem:
    """Problems that no model would make: any effects at any moment."""
    names = tuple("abcd"[: draw(st.integers(1, 4))])
    spans = [names[i:j] for i in range(len(names)) for j in range(i + 1, len(names) + 1)]
    covers = draw(st.lists(st.sampled_from(spans), min_size=1, max_size=6))
    options = [Option(cover, "nothing", draw(st.integers(0, 9)), 1, {}) for cover in covers]
    sizes = st.integers(-50, 20)
    moments = [
        Moment(f"m{row}", draw(st.integers(300, 400)), tuple((n, draw(sizes)) for n in range(len(options))), (0,))
        for row in range(draw(st.integers(1, 4)))
    ]
    once = Once(draw(st.integers(0, 30)), draw(st.frozensets(st.integers(0, len(options) - 1))), 0)
    return Problem(names, tuple(options), tuple(moments), (once,), 100)


@settings(max_examples=150, deadline=None)
@given(problems(), st.integers(250, 430))
def test_the_solver_agrees_with_brute_force_on_any_problem(problem: Problem, budget: int) -> None:
    found = cheapest(problem, budget)
    assert (None if found is None else problem.cost(found)) == brute_force(problem, budget)
    assert found is None or (problem.peak(found) <= budget and problem.allowed(found))


@pytest.mark.parametrize("beam", [1, 40])
def test_it_agrees_where_many_choices_are_nearly_as_good(monkeypatch: pytest.MonkeyPatch, beam: int) -> None:
    """Five candidates with three options each, 1,024 choices, and four moments that want different ones; also where the
    first, quick look finds next to nothing."""
    monkeypatch.setattr(solve, "_BEAM", beam)
    draw = random.Random(beam)
    for _ in range(12):
        options = tuple(
            Option((name,), str(kind), draw.randint(20, 60), 1, {}) for name in "abcde" for kind in range(3)
        )
        moments = tuple(
            Moment(f"m{row}", 400, tuple((n, draw.randint(-60, 5)) for n in range(len(options)))) for row in range(4)
        )
        problem = Problem(tuple("abcde"), options, moments, (), 1000)
        for budget in range(180, 400, 40):
            found = cheapest(problem, budget)
            assert (None if found is None else problem.cost(found)) == brute_force(problem, budget)


@settings(max_examples=60, deadline=None)
@given(problems())
def test_the_lowest_peak_agrees_with_brute_force_on_any_problem(problem: Problem) -> None:
    found = least_memory(problem)
    least = min((problem.peak(choice), problem.cost(choice)) for choice in every_choice(problem))
    assert (problem.peak(found), problem.cost(found)) == least


def test_equal_blocks_are_taken_in_a_row() -> None:
    """Three blocks that keep 10 each of 100; two have to go: the solver may say 0 and 2, a person reads 0-1."""
    options = tuple(Option((name,), "nothing", 5, 5, {}) for name in "abc")
    problem = Problem(
        ("a", "b", "c"), options, (Moment("head", 100, ((0, -10), (1, -10), (2, -10))),), (), 100
    )  # fmt: skip
    assert tidy(problem, [["a", "b", "c"]], (0, 2), 80) == (0, 1)


# The answer.


def test_the_answer_is_traced_and_fits() -> None:
    options = dataclasses.replace(planner("seven").options, batch=512)  # against which a segment of 20 MiB is small
    answer = Planner(options, 440 * 2**20).cheapest()
    assert not answer.base.fits and answer.best is not None
    assert answer.best.fits and answer.best.peak.reserved <= answer.budget
    assert answer.best.predicted == answer.best.peak.requested
    assert 0 < answer.best.share < 0.5 and answer.notes == ()


def test_no_plan_fits_says_what_binds() -> None:
    answer = Planner(planner("seven").options, 16 * 2**20).cheapest()
    assert answer.best is None and answer.least is not None
    assert answer.least.peak.requested > 16 * 2**20
    assert answer.least.binding.startswith(("the forward", "the backward"))


def test_a_step_that_fits_is_left_alone() -> None:
    answer = Planner(planner("lean").options, 2**30).cheapest()
    assert answer.best is answer.base and answer.best.plan == Plan()


def test_the_curve_falls() -> None:
    answer = Planner(planner("lean").options, 2**30).pareto(4)
    peaks, shares = [p.peak.requested for p in answer.curve], [p.share for p in answer.curve]
    assert peaks == sorted(peaks, reverse=True) and shares == sorted(shares) and len(peaks) >= 4
    assert all(point.predicted == point.peak.requested for point in answer.curve)


# The file.


def test_a_plan_survives_its_file(tmp_path: object) -> None:
    plan = Plan((Region(("a.0", "a.1")), Region(("b",), "matmuls")), 8, {"batch": 2}, {"recompute": 0.1})
    assert parse_plan(plan.text) == plan
    one_by_one = Plan((Region(("a",), "_softmax 0, mm 0 3"),), use_cache=False)
    assert parse_plan(one_by_one.text) == one_by_one


@pytest.mark.parametrize(
    "text",
    ["", "[]", "{}", '{"kind": "checkpoint plan", "schema": 1, "regions": [{"modules": [], "keep": "nothing"}]}'],
)
def test_what_is_no_plan_is_said_in_one_line(text: str) -> None:
    with pytest.raises(UsageError, match="is no checkpoint plan"):
        parse_plan(text)


def test_other_policies_and_newer_files_are_refused() -> None:
    region = '{"modules": ["a"], "keep": "matmul"}'
    with pytest.raises(UsageError, match="did you mean matmuls"):
        parse_plan(f'{{"kind": "checkpoint plan", "schema": 1, "regions": [{region}]}}')
    with pytest.raises(UsageError, match="newer memgraph"):
        parse_plan('{"kind": "checkpoint plan", "schema": 9, "regions": []}')
    with pytest.raises(UsageError, match="cannot be read"):
        load_plan("nowhere.json")


def test_options_take_a_plan(tmp_path: object) -> None:
    with pytest.raises(UsageError, match=r"there is no plan other\.json"):
        Options(checkpoint="other.json")
    with pytest.raises(UsageError, match="did you mean blocks"):
        Options(checkpoint="block")
    with pytest.raises(UsageError, match="starts from a step with nothing checkpointed"):
        Planner(Options(checkpoint="blocks", gpu="h100"))
    with pytest.raises(UsageError, match="plans are made for eager steps"):
        Planner(Options(compile="default", gpu="h100"))
    several = Plan((Region(("decoder.blocks.0", "decoder.blocks.1")),))
    with pytest.raises(UsageError, match="does not follow a checkpoint that one module opens and another closes"):
        predict(Options(compile="default", gpu="h100", checkpoint=several.text))
