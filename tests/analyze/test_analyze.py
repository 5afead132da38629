"""The peak's parts, who holds them, and the curve: rows on hand-made runs, with the arithmetic."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import memgraph
from memgraph.analyze.attribution import consumers, starred
from memgraph.analyze.leaks import verdict_on_steps
from memgraph.analyze.peak import Share, categories, verdict
from memgraph.analyze.steps import Kind, Steps, holder
from memgraph.analyze.timeline import Bin, bins
from memgraph.gpu.specs import find
from memgraph.trace import Action, Category, Event, Held, Role, Trace
from tests.conftest import Tape

MIB = 2**20


# ---- categories


def test_the_peak_by_category(toy: Trace) -> None:
    """4300 = 2000 scratch + 2 × 600 activations + 1000 weight + 100 input; gradient and state come later."""
    assert categories(toy) == (
        Share(Category.WORKSPACE, 2000, 1, 2000 / 4300),
        Share(Category.ACTIVATION, 1200, 2, 1200 / 4300),
        Share(Category.PARAMETER, 1000, 1, 1000 / 4300),
        Share(Category.INPUT, 100, 1, 100 / 4300),
    )


def test_nothing_has_no_categories(empty: Trace) -> None:
    assert categories(empty) == ()


def test_buffers_of_no_bytes_have_no_share(tape: Tape) -> None:
    tape.alloc(0, Category.INPUT)
    assert categories(tape.trace()) == (Share(Category.INPUT, 0, 1, 0.0),)


# ---- verdict


def test_it_fits_with_a_margin(toy: Trace) -> None:
    found, card = verdict(toy), find("rtx3090")
    assert found.fits and (found.reserved, found.available, found.margin) == (2 * MIB, 4 * MIB, 2 * MIB)
    assert (found.context, found.memory) == (card.context, card.memory)


def test_it_does_not_fit(tape: Tape) -> None:
    tape.segment(3 * MIB)
    tape.out_of_memory(2 * MIB)
    tape.segment(2 * MIB)
    found = verdict(tape.trace())
    assert not found.fits and found.margin == 4 * MIB - 5 * MIB


def test_a_card_that_is_not_known_has_no_context(toy: Trace) -> None:
    found = verdict(dataclasses.replace(toy, gpu="NVIDIA Unheard Of"))
    assert (found.context, found.memory) == (0, 0) and found.margin == 2 * MIB


def test_a_card_may_go_by_its_drivers_name(toy: Trace) -> None:
    assert verdict(dataclasses.replace(toy, gpu="NVIDIA H200")).memory == 150_109_880_320


# ---- consumers


def test_who_holds_the_peak(toy: Trace) -> None:
    """The largest first. The activations of two equal blocks are one row, and only they have a star for the layer."""
    rows = consumers(toy)
    assert [(row.bytes, row.count, row.provenance) for row in rows] == [
        (2000, 1, "temporary of mm in blocks.1.mlp, model.py:10"),
        (1200, 2, "output of mm in blocks.*.mlp, model.py:10"),
        (1000, 1, "parameter blocks.0.weight"),
        (100, 1, "input 0"),
    ]
    pair = rows[1]
    assert (pair.name, pair.op, pair.module, pair.source) == ("", "aten.mm.default", "blocks.*.mlp", "model.py:10")
    assert (pair.shape, pair.dtype, pair.category) == ((10, 15), "float32", Category.ACTIVATION)


def test_who_holds_another_moment(toy: Trace) -> None:
    """After event 10: gradient, state and weight of 1000 each, in the order of their names; the input of 100."""
    rows = consumers(toy, 10)
    assert [(row.bytes, row.provenance) for row in rows] == [
        (1000, "exp_avg of blocks.0.weight"),
        (1000, "gradient of blocks.0.weight"),
        (1000, "parameter blocks.0.weight"),
        (100, "input 0"),
    ]


def test_nobody_holds_nothing(empty: Trace) -> None:
    assert consumers(empty) == ()


@pytest.mark.parametrize(
    ("role", "phrase"),
    [
        (Role.OUTPUT, "output of mm in head, model.py:9"),
        (Role.TEMPORARY, "temporary of mm in head, model.py:9"),
        (Role.LIBRARY, "library workspace of mm in head, model.py:9"),
    ],
)
def test_each_role_has_its_phrase(tape: Tape, role: Role, phrase: str) -> None:
    tape.phase("forward", 1)
    tape.op("aten.mm.default", "head", "model.py:9")
    tape.segment(MIB)
    tape.alloc(8, Category.ACTIVATION, role=role)
    assert consumers(tape.trace())[0].provenance == phrase


def test_a_phrase_leaves_out_what_is_not_known(tape: Tape) -> None:
    tape.phase("forward", 1)
    tape.segment(MIB)
    tape.alloc(9, Category.UNKNOWN)
    tape.op("aten.mm.default")
    tape.alloc(8, Category.ACTIVATION)
    assert [row.provenance for row in consumers(tape.trace())] == ["output of something outside any op", "output of mm"]


@pytest.mark.parametrize(
    "differing",
    [
        {"shape": (4,)},
        {"dtype": "bfloat16"},
        {"category": Category.TEMPORARY},
        {"role": Role.TEMPORARY},
    ],
)
def test_what_differs_is_not_grouped(tape: Tape, differing: dict[str, object]) -> None:
    tape.phase("forward", 1)
    tape.op("aten.mm.default", "blocks.0")
    tape.segment(MIB)
    same = {"category": Category.ACTIVATION, "role": Role.OUTPUT, "shape": (2,), "dtype": "float32"}
    tape.alloc(8, **same)  # type: ignore[arg-type]
    tape.op("aten.mm.default", "blocks.1")
    tape.alloc(8, **same)  # type: ignore[arg-type]
    tape.alloc(8, **same | differing)  # type: ignore[arg-type]
    assert sorted(row.count for row in consumers(tape.trace())) == [1, 2]


def test_named_buffers_of_equal_layers_are_grouped(tape: Tape) -> None:
    """Whichever ops made them; the head's weight is another."""
    tape.phase("load", 0)
    tape.segment(MIB)
    for name in ("blocks.0.weight", "blocks.1.weight", "head.weight"):
        tape.op(f"aten.{name}.default")
        tape.alloc(8, Category.PARAMETER, name)
    assert [(row.provenance, row.count) for row in consumers(tape.trace())] == [
        ("parameter blocks.*.weight", 2),
        ("parameter head.weight", 1),
    ]


@pytest.mark.parametrize(
    "other", [("aten.add.Tensor", "blocks.1", "m.py:1"), ("aten.mm.default", "blocks.1", "m.py:2")]
)
def test_another_op_or_line_is_not_grouped(tape: Tape, other: tuple[str, str, str]) -> None:
    tape.phase("forward", 1)
    tape.segment(MIB)
    for op in (("aten.mm.default", "blocks.0", "m.py:1"), other):
        tape.op(*op)
        tape.alloc(8, Category.ACTIVATION)
    assert len(consumers(tape.trace())) == 2


def test_forward_and_backward_are_not_grouped(tape: Tape) -> None:
    tape.phase("forward", 1)
    tape.segment(MIB)
    first = tape.op("aten.mm.default", "head")
    tape.alloc(8, Category.ACTIVATION)
    tape.op("aten.mm.default", "head", forward=first)
    tape.alloc(8, Category.ACTIVATION)
    assert len(consumers(tape.trace())) == 2


@pytest.mark.parametrize(
    ("path", "pattern"),
    [
        ("decoder.blocks.17.attn", "decoder.blocks.*.attn"),
        ("gradient of blocks.3.weight", "gradient of blocks.*.weight"),
        ("17", "*"),
        ("layer1.0.conv2", "layer1.*.conv2"),  # a number that is part of a name tells two places apart
        ("h.0.mlp.3", "h.*.mlp.*"),
        ("conv_2.x3", "conv_2.x3"),
        ("", ""),
    ],
)
def test_layer_numbers_become_stars(path: str, pattern: str) -> None:
    assert starred(path) == pattern


# ---- the curve


def test_the_curve_in_stretches(toy: Trace) -> None:
    """12 events in 4: each says the highest of its three."""
    assert bins(toy, 4) == (
        Bin(0, 3, 1100, "load"),
        Bin(3, 6, 4300, "forward"),
        Bin(6, 9, 3300, "backward"),
        Bin(9, 12, 3100, "backward"),
    )


def test_a_short_run_has_a_stretch_an_event(toy: Trace) -> None:
    assert [column.high for column in bins(toy, 80)] == list(toy.usage[0])


def test_no_stretch_of_nothing(empty: Trace, toy: Trace) -> None:
    assert bins(empty, 80) == bins(toy, 0) == ()


# ---- conservation, for any run


@st.composite
def runs(draw: st.DrawFn) -> Trace:
    """Any run of a few ops, some of its buffers dying on the way."""
    tape, alive = Tape(), []
    tape.phase("forward", 1)
    tape.segment(64 * MIB)
    for _ in range(draw(st.integers(1, 30))):
        if draw(st.booleans()):
            tape.op(draw(st.sampled_from(["aten.mm.default", "aten.add.Tensor"])), f"blocks.{draw(st.integers(0, 2))}")
        name = draw(st.sampled_from(["", "blocks.0.weight", "blocks.1.weight"]))
        alive.append(tape.alloc(draw(st.integers(0, MIB)), draw(st.sampled_from(Category)), name))
        if draw(st.booleans()):
            tape.free(alive.pop(draw(st.integers(0, len(alive) - 1))))
    return tape.trace()


@given(runs())
def test_categories_and_consumers_add_up_to_the_peak(trace: Trace) -> None:
    shares, rows, alive = categories(trace), consumers(trace), trace.live_at(trace.peak.event)
    assert sum(share.bytes for share in shares) == sum(row.bytes for row in rows) == trace.peak.requested
    assert sum(share.count for share in shares) == sum(row.count for row in rows) == len(alive)
    assert sum(share.share for share in shares) == pytest.approx(1 if trace.peak.requested else 0)
    assert [row.bytes for row in rows] == sorted((row.bytes for row in rows), reverse=True)


@given(runs(), st.integers(1, 100))
def test_the_stretches_cover_the_run_and_hide_no_peak(trace: Trace, count: int) -> None:
    found = bins(trace, count)
    assert len(found) == min(count, len(trace.events))
    assert [event for column in found for event in range(column.start, column.stop)] == list(range(len(trace.events)))
    assert max(column.high for column in found) == trace.peak.requested
    assert all(column.high == max(trace.usage[0][column.start : column.stop]) for column in found)


def test_events_without_buffers_are_events(tape: Tape) -> None:
    tape.segment(MIB)
    tape.events.append(Event(Action.SEGMENT_FREE, -1, -1, 0, MIB))
    trace = tape.trace()
    assert bins(trace, 1) == (Bin(0, 2, 0, ""),) and consumers(trace) == () and categories(trace) == ()


@pytest.mark.parametrize(
    ("steady", "said"),
    [
        (1, "Steady after step 1: the 2 steps after it need no more."),
        (2, "Steady after step 2: the step after it needs no more."),
        (0, "Nothing is kept from step to step; what a step needs still varied over 3 steps."),
    ],
)
def test_a_verdict_counts_the_steps(steady: int, said: str) -> None:
    assert verdict_on_steps(Steps(3, "step", (1, 2, 3), (), steady)) == said


def test_little_that_is_kept_is_said_too() -> None:
    """Figures of 20 KiB that a list collects beside a step of gigabytes."""
    held = Held("classes", "list", False, "test.py:9", 8, (0,))
    kind = Kind("argmax, test.py:8", "test.py:8", 8, 8 * 20480, 20480.0, held, (0,))
    told = "20.00 KiB more are kept each call, which is little: 19.53 MiB in a thousand"
    assert verdict_on_steps(Steps(8, "call", (1, 2), (), 0, (kind,))) == (
        f"{told}; held by the list `classes`, filled at test.py:9."
    )
    assert verdict_on_steps(Steps(8, "call", (1, 2), (), 0, (kind._replace(held=None),))) == f"{told}."


def test_who_holds_most_is_the_holder() -> None:
    """Results of an evaluation are in a list, but for that of the training step before it, which still has its
    variable; of two that hold one each, it is who has the older."""
    with memgraph.virtual_gpu("t4") as gpu:
        kept = [torch.zeros(4, device="cuda") for _ in range(4)]
    variable, masks = (Held(name, "list", False, "", 1, rows) for name, rows in (("out", (0,)), ("masks", (1, 2, 3))))
    trace = dataclasses.replace(gpu.trace, held=(variable, masks))
    assert len(kept) == 4 and holder(trace, (0, 1, 2, 3)) == masks
    assert holder(trace, (0, 1)) == variable
