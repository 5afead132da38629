"""Laws: found exactly or not at all; a program of a run is the run, at any size, event by event."""

from __future__ import annotations

from collections.abc import Iterator
from fractions import Fraction

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from memgraph.analyze.growth import prove, solve_program
from memgraph.analyze.laws import growth, laws_for, points_of, total
from memgraph.analyze.polynomial import Factor, Polynomial, Term, constant, solve
from memgraph.analyze.program import Irregular, Program, Run, requests_of
from memgraph.analyze.regions import Region, Sizes, spread
from memgraph.analyze.replay_fast import replay
from memgraph.analyze.template import fit_template
from memgraph.gpu.call import Call, TensorMeta
from memgraph.gpu.specs import find
from memgraph.options import Options
from memgraph.study.study import Study
from memgraph.trace import Action, Trace
from tests.analyze.runs_by_hand import step

POINTS = [{"B": 2, "S": 136}, {"B": 13, "S": 504}, {"B": 5, "S": 264}, {"B": 3, "S": 392}]
B, S = Factor("B"), Factor("S")

# Formulas.


@pytest.mark.parametrize(
    ("formula", "text"),
    [
        (lambda b, s: 12, "12"),
        (lambda b, s: b * s * 49153 * 4, "B·S·196612"),
        (lambda b, s: 12 * b * 9 * s * s, "B·S²·108"),
        (lambda b, s: b * (s + 1) * 4, "B·S·4 + B·4"),
        (lambda b, s: 4 * b * -(-s // 32) * 32, "B·⌈S⌉32·4"),
        (lambda b, s: b * b * 4, "B²·4"),
        (lambda b, s: b * s * 2 + s * 8 + 640, "B·S·2 + S·8 + 640"),
        (lambda b, s: b * s // 8, "B·S/8"),
    ],
)
def test_a_formula_is_found(formula: object, text: str) -> None:
    assert callable(formula)
    law = solve([formula(p["B"], p["S"]) for p in POINTS], POINTS)
    assert law is not None
    assert str(law) == text
    assert law.at({"B": 7, "S": 1000}) == formula(7, 1000)


def test_an_image_has_two_sides_and_its_patches_pair() -> None:
    points = [{"vit_img_size": size} for size in (64, 160, 224)]
    patches = solve([(p["vit_img_size"] // 16) ** 2 for p in points], points)
    scores = solve([(p["vit_img_size"] // 16) ** 4 for p in points], points)
    assert (str(patches), str(scores)) == ("vit_img_size²/256", "vit_img_size^4/65536")


def test_what_follows_no_formula_has_none() -> None:
    assert solve([96, 512, 7, 1024], POINTS) is None


def test_as_many_coefficients_as_points_prove_nothing() -> None:
    # any two numbers lie on a line in S; a third point is the first that could object
    assert solve([100, 300], [{"S": 1}, {"S": 2}]) is None
    assert str(solve([100, 300, 500], [{"S": 1}, {"S": 2}, {"S": 3}])) == "S·200 - 100"


def test_points_that_cannot_tell_two_formulas_apart_prove_neither() -> None:
    # where S is always 8 B, 32 S² is 256 B·S
    points = [{"B": 2, "S": 16}, {"B": 3, "S": 24}, {"B": 5, "S": 40}]
    assert solve([256 * p["B"] * p["S"] for p in points], points) is None


def test_no_formula_is_used_where_it_gives_no_whole_number() -> None:
    eighth = Polynomial((Term(Fraction(1, 8), (S,)),))
    assert eighth.at({"S": 64}) == 8
    with pytest.raises(ValueError, match="not a whole number"):
        eighth.at({"S": 65})


def test_formulas_add_up() -> None:
    one, other = Polynomial((Term(Fraction(4), (B, S)),)), Polynomial((Term(Fraction(6), (B, S)), Term(Fraction(1))))
    assert str(one + other) == "B·S·10 + 1"
    assert str(one.times(3)) == "B·S·12"
    assert one.times(0) == constant(0) + constant(0)


TERMS = st.lists(
    st.tuples(st.integers(1, 10**6), st.sampled_from([(), (B,), (S,), (B, S), (Factor("S", 2),), (B, Factor("S", 2))])),
    min_size=1, max_size=2, unique_by=lambda term: term[1],
)  # fmt: skip


@given(TERMS)
@settings(max_examples=50, deadline=None)
def test_a_law_holds_where_it_was_not_solved(terms: list[tuple[int, tuple[Factor, ...]]]) -> None:
    truth = Polynomial(tuple(Term(Fraction(number), factors) for number, factors in terms))
    law = solve([truth.at(point) for point in POINTS], POINTS)
    assert law is not None
    assert law.at({"B": 29, "S": 1016}) == truth.at({"B": 29, "S": 1016})


# Calls.


def call(batch: int, seq: int, kind: str = "float32") -> Call:
    return Call("sum", "dim_IntList", (TensorMeta((batch * seq, 64), (64, 1), kind, 4), (0,), True), {}, ())


def test_a_call_is_filled_with_other_sizes() -> None:
    points = POINTS[:3]
    template = fit_template([call(p["B"], p["S"]) for p in points], points)
    assert template is not None
    assert template.filled([law.at({"B": 7, "S": 1000}) for law in template.numbers]) == call(7, 1000)


def test_calls_that_differ_in_more_than_sizes_have_no_template() -> None:
    points = POINTS[:3]
    assert fit_template([call(p["B"], p["S"]) for p in points], points) is not None
    mixed = [call(p["B"], p["S"], "float16" if p["B"] == 5 else "float32") for p in points]
    assert fit_template(mixed, points) is None


# Laws of traces.


def test_the_laws_of_a_run_made_by_hand() -> None:
    trace, others = step(4, 32), [step(2, 16), step(3, 40), step(5, 24)]
    laws = {row.provenance: law.text for row, law in laws_for(trace, others).items()}
    assert laws["output of mm in blocks.*, model.py:10"] == "2 x B·S·64·4"
    assert laws["output of bmm in blocks.*, model.py:11"] == "2 x B·S²·4·2"
    assert laws["output of mm in head, model.py:20"] == "B·S·100·4"
    assert laws["parameter blocks.*.weight"] == "2 x 1000·4"
    # 2 x B·S²·8, then (8 + 2 x 256 + 2 x 400) B·S = 1320 B·S, then 8000 of weights
    peak = total(trace, others)
    assert peak.text == "B·S²·16 + B·S·1320 + 8000"
    assert peak.formula is not None
    assert peak.formula.at({"B": 7, "S": 56}) == step(7, 56).peak.requested


def test_bytes_by_degree_add_up_and_squares_come_first() -> None:
    trace, others = step(4, 32), [step(2, 16), step(3, 40), step(5, 24)]
    rows = growth(trace, others)
    assert [row.degree for row in rows] == ["B·S²", "B·S", "constant"]
    assert sum(row.bytes for row in rows) == trace.peak.requested
    assert "B·S²" not in [row.degree for row in growth(step(4, 32, squares=False), _flat())]


def _flat() -> list[Trace]:
    return [step(batch, seq, squares=False) for batch, seq in ((2, 16), (3, 40), (5, 24))]


def test_a_setting_that_follows_another_is_no_size_of_its_own() -> None:
    assert points_of([step(2, 16), step(3, 24)]) == [{"B": 2, "S": 16}, {"B": 3, "S": 24}]


def test_runs_of_other_ops_give_no_law() -> None:
    trace = step(4, 32)
    laws = laws_for(trace, [step(2, 16, blocks=3), step(3, 40), step(5, 24, blocks=1)])
    assert {law.text for law in laws.values()} == {"irregular: the other sizes run other ops"}
    assert {law.degree for law in laws.values()} == {"irregular"}


# Programs.

GPU, VERSION = find("rtx3090"), (2, 13)


def run(batch: int, seq: int, **fields: bool) -> Run:
    return Run(_regular(step(batch, seq, **fields)), {}, {"B": batch, "S": seq})


def _regular(trace: Trace) -> Trace:
    """Without the scratch, which no rule explains."""
    import dataclasses

    scratch = {index for index, buffer in enumerate(trace.buffers) if buffer.role == "temporary"}
    from memgraph.trace import Events

    events = Events(event for event in trace.events if event.buffer not in scratch)
    places = {old: new for new, old in enumerate(i for i in range(len(trace.buffers)) if i not in scratch)}
    renumbered = Events(event._replace(buffer=places.get(event.buffer, -1)) for event in events)
    buffers = tuple(buffer for index, buffer in enumerate(trace.buffers) if index not in scratch)
    return dataclasses.replace(trace, events=renumbered, buffers=buffers, phases=(trace.phases[0],))


def test_a_program_is_the_run_at_any_size() -> None:
    program = solve_program([run(2, 16), run(3, 40), run(5, 24)], GPU, VERSION)
    for sizes in ((7, 56), (1, 8), (64, 1024)):
        other = run(*sizes)
        prove(program, other, GPU, VERSION)
        requests = program.requests(other.point, GPU, VERSION)
        assert requests.requested == other.trace.peak.requested
        assert max(requests.curve()) == other.trace.peak.requested


def test_a_run_that_the_program_does_not_cover_is_named() -> None:
    program = solve_program([run(2, 16), run(3, 40), run(5, 24)], GPU, VERSION)
    with pytest.raises(Irregular, match=r"at B=4, S=32, bmm in blocks\.0 does not allocate what the laws say"):
        prove(program, run(4, 32)._replace(trace=_wrong(run(4, 32).trace)), GPU, VERSION)


def _wrong(trace: Trace) -> Trace:
    """Its first attention scores have one byte more."""
    import dataclasses

    place = next(i for i, b in enumerate(trace.buffers) if b.dtype == "float16")
    buffers = list(trace.buffers)
    buffers[place] = buffers[place]._replace(size=buffers[place].size + 1)
    return dataclasses.replace(trace, buffers=tuple(buffers))


def test_runs_of_other_ops_are_no_program() -> None:
    with pytest.raises(Irregular, match=r"where B=2, S=16 has bmm in blocks\.0, B=3, S=24 has mm in blocks\.1"):
        solve_program([run(2, 16), run(3, 24, squares=False)], GPU, VERSION)


def test_tensors_that_die_together_have_no_order() -> None:
    """As autocast's cache of weights drops them: in the order of a hash of their addresses."""
    program = solve_program([run(2, 16), run(3, 40), run(5, 24)], GPU, VERSION)
    other = run(7, 56)
    columns = [list(column) for column in other.trace.events.columns]
    first = next(i for i, action in enumerate(columns[0]) if action == Action.FREE)
    assert columns[0][first + 1] == Action.FREE
    for column in columns:
        column[first], column[first + 1] = column[first + 1], column[first]
    swapped = requests_of(other.trace)
    assert sorted(swapped.events) == sorted(program.requests(other.point, GPU, VERSION).events)
    prove(program, other, GPU, VERSION)


# The real thing, small.

SMALL = {
    "vit_hidden_dim": "32", "vit_inter_dim": "64", "vit_img_size": "32", "vit_n_heads": "2", "vit_n_blocks": "1",
    "lm_hidden_dim": "32", "lm_inter_dim": "64", "lm_n_heads": "2", "lm_n_kv_heads": "1", "lm_n_blocks": "1",
    "lm_base_vocab_size": "999",
}  # fmt: skip


@pytest.fixture(scope="module")
def study() -> Iterator[Study]:
    return Study(Options(set=SMALL))  # type: ignore[return-value]


@pytest.fixture(scope="module")
def program(study: Study) -> Program:
    return study.program(Region("rtx3090", 16, 1024))


@pytest.mark.parametrize("sizes", [Sizes(2, 256), Sizes(31, 72), Sizes(6, 1000)])
def test_laws_of_nanovlm_equal_a_fresh_trace_to_the_byte(study: Study, program: Program, sizes: Sizes) -> None:
    fresh = study.run(sizes, "rtx3090")
    prove(program, fresh, find("rtx3090"), study.version)
    asked = program.requests(fresh.point, find("rtx3090"), study.version)
    replayed = replay(asked.events, asked.sizes, fresh.trace.memory)
    assert (asked.requested, replayed.allocated, replayed.reserved) == tuple(fresh.trace.peak[:3])


def test_another_card_needs_one_trace_if_it_runs_the_same_ops(study: Study, program: Program) -> None:
    before = study.traced
    assert study.program(Region("a100-40gb", 16, 1024)) is program
    assert study.traced == before + 1


def test_one_sample_and_odd_lengths_are_laws_of_their_own(study: Study, program: Program) -> None:
    for sizes in (Sizes(1, 56), Sizes(2, 67)):
        with pytest.raises(Irregular):
            prove(program, study.run(sizes, "rtx3090"), find("rtx3090"), study.version)
    alone = Region("rtx3090", 24, 72, alone=True)
    prove(study.program(alone), study.run(Sizes(1, 56), "rtx3090")._replace(point={"S": 56}), GPU, study.version)


@given(st.integers(0, 7), st.integers(1, 200), st.integers(3, 200))
def test_lengths_are_spread_within_bounds_and_of_one_remainder(rest: int, low: int, more: int) -> None:
    low, high = 8 * low + rest, 8 * (low + more) + rest
    lengths = spread(low, high)
    assert len(set(lengths)) == 4
    assert all(low <= length <= high and length % 8 == rest for length in lengths)
