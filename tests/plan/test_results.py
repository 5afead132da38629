"""What a region could keep result by result: what such a run does is worked out, and is what a run of it does."""

from __future__ import annotations

import dataclasses
import functools
import itertools
import random
from collections import Counter

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from memgraph.options import Options
from memgraph.plan import candidates as search
from memgraph.plan.candidates import Regions
from memgraph.plan.plan_file import keep_places, keeps
from memgraph.plan.policies import NESTED, sets_of
from memgraph.plan.results import Result, results
from memgraph.plan.sections import same_memory
from memgraph.study.planner import Planner
from memgraph.trace import Trace


@functools.cache
def recomputed(model: str) -> tuple[Planner, Regions, Trace, dict[str, tuple[Result, ...]]]:
    """A planner, its candidates, the run with all of them recomputed, and what each could keep."""
    planner = Planner(Options(model=model, gpu="rtx3090", batch=8))
    planner._prepare()
    single = tuple((name,) for name in planner._modules)
    trace = planner._trace(planner._everywhere(single))
    return planner, single, trace, results(trace, search.owner_of(planner.found.all), planner._costs(trace))


@pytest.mark.parametrize("model", ["seven", "towers", "plain"])
@pytest.mark.parametrize("share", [0.3, 0.7, 1.0])
def test_a_run_that_keeps_any_results_is_as_it_was_worked_out(model: str, share: float) -> None:
    planner, single, trace, found = recomputed(f"tests.plan.planned_models:{model}")
    draw = random.Random(share)
    kept = {name: [one for one in made if draw.random() < share] for name, made in found.items()}
    assert sum(map(len, kept.values())) > 5
    worked_out = planner._worked_out(trace, single, kept)
    run = planner._variant(single, worked_out.kinds)
    assert run is not None and same_memory(worked_out.cut, run.cut)
    assert not same_memory(worked_out.cut, planner._worked_out(trace, single, {}).cut)


def test_to_keep_a_result_takes_its_bytes_and_saves_its_op() -> None:
    """The first block's up-projection at batch 8: 8 x 64 tokens of 192 in bf16."""
    planner, single, trace, found = recomputed("tests.plan.planned_models:seven")
    up = next(one for one in found["blocks.0"] if one.op == "addmm")
    assert (up.place, up.size) == (0, 8 * 64 * 192 * 2)
    cuts = [planner._worked_out(trace, single, kept).cut for kept in ({}, {"blocks.0": [up]})]
    forward, backward = (
        [next(s for s in cut.sections if s.key[:3] == ("blocks.0", phase, 2)) for cut in cuts]
        for phase in ("forward", "backward")
    )
    assert forward[1].change - forward[0].change == up.size
    assert backward[0].change - backward[1].change == up.size
    assert Counter(backward[0].ops) - Counter(backward[1].ops) == Counter({"aten.addmm.default": 1})


class Mean(nn.Module):
    """A result that is written over, a random one, and one that may be kept."""

    def __init__(self) -> None:
        super().__init__()
        self.up, self.down = nn.Linear(16, 32), nn.Linear(32, 16)

    def forward(self, x: Tensor) -> Tensor:
        y = torch.relu_(self.up(x))
        return torch.tanh(self.down(nn.functional.dropout(y, 0.1)).square())


def writes(batch: int = 8) -> tuple[nn.Module, Tensor]:
    """A model of such blocks and a batch."""

    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.blocks = nn.ModuleList(Mean() for _ in range(3))

        def forward(self, x: Tensor) -> Tensor:
            for block in self.blocks:
                x = block(x)
            return x.mean()

    return Model(), torch.zeros(batch, 16)


def test_what_is_written_over_and_what_is_random_is_not_kept() -> None:
    planner, _, _, found = recomputed("tests.plan.test_results:writes")
    ops = {(one.op, one.place) for one in found["blocks.1"]}
    assert ("addmm", 1) in ops and ("addmm", 0) not in ops  # the first is what relu_ writes over
    assert not any("dropout" in op or "relu" in op for op, _ in ops)
    assert not planner.notes


# Sets.


def made(sizes: list[tuple[int, int]]) -> list[Result]:
    return [Result("mm", place, size, time, ((place, place),)) for place, (size, time) in enumerate(sizes)]


RESULTS = st.lists(st.tuples(st.integers(1, 40), st.integers(0, 40)), max_size=9).map(made)


@given(RESULTS, st.integers(1, 60))
def test_sets_grow_and_the_last_has_everything_that_saves_time(found: list[Result], regions: int) -> None:
    sets = sets_of(found, regions)
    sizes = [sum(one.size for one in kept) for kept in sets]
    assert sizes == sorted(sizes) and len(sets) <= max(NESTED, 400 // regions)
    useful = {one.place for one in found if one.device}
    assert {one.place for kept in sets[-1:] for one in kept} == useful


@given(RESULTS)
def test_a_set_for_so_many_bytes_is_the_best_there_is(found: list[Result]) -> None:
    """Sizes add up to at most 256 units of a byte, so that none is rounded."""
    found = [one for one in found if one.device]
    if sum(one.size for one in found) > 256:
        return
    sums = [(sum(one.size for one in some), sum(one.device for one in some))
            for count in range(len(found) + 1) for some in itertools.combinations(found, count)]  # fmt: skip
    for kept in sets_of(found, 1):
        size, time = sum(one.size for one in kept), sum(one.device for one in kept)
        assert time == max(other for room, other in sums if room <= size)


@given(st.lists(st.tuples(st.sampled_from(["mm", "gelu", "_softmax"]), st.integers(0, 30)), unique=True))
def test_what_is_kept_is_written_and_read(kept: list[tuple[str, int]]) -> None:
    text = keep_places(kept)
    asked = itertools.product(["mm", "gelu", "_softmax", "m"], range(31))
    assert {one for one in asked if keeps(text, *one)} == set(kept)


def test_few_regions_have_more_sets() -> None:
    found = made([(2**place, 7 * place + 1) for place in range(14)])
    assert len(sets_of(found, 42)) == NESTED < len(sets_of(found, 10))


def test_more_steps_are_the_same_results() -> None:
    planner, _, _, found = recomputed("tests.plan.planned_models:seven")
    longer = Planner(dataclasses.replace(planner.options, steps=3))
    longer._prepare()
    trace = longer._trace(longer._everywhere(tuple((name,) for name in longer._modules)))
    more = results(trace, search.owner_of(longer.found.all), longer._costs(trace))
    assert [len(one.twins) for one in found["blocks.0"]] == [2] * len(found["blocks.0"])
    assert [one._replace(twins=()) for one in more["blocks.0"]] == [one._replace(twins=()) for one in found["blocks.0"]]
    assert {len(one.twins) for one in more["blocks.0"]} == {3}
