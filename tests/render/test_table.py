"""The report as text of 80 columns and as JSON: golden texts, and what must hold of any of them."""

from __future__ import annotations

import dataclasses
import json
import re
import unicodedata
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from memgraph.gpu.specs import all_gpus
from memgraph.render import json as render_json
from memgraph.render import table
from memgraph.trace import Category, Trace
from tests.conftest import Tape

Golden = Callable[[str, str], None]
MIB = 2**20

SETTINGS: dict[str, Any] = {
    "model": "nanovlm-222m", "batch": 8, "seq": 128, "amp": "bf16", "dtype": "float32", "optimizer": "adamw",
    "optimizer_impl": "default", "steps": 2, "set": {"vit_n_blocks": "1"}, "checkpoint": "blocks", "clip": 1.0,
    "accumulate": 4,
}  # fmt: skip


def markup(colour: str, text: str) -> str:
    """Colours that can be read."""
    return f"<{colour}>{text}</{colour}>"


@pytest.fixture
def full(toy: Trace) -> Trace:
    """The toy with all that a report can say."""
    return dataclasses.replace(
        toy,
        settings=SETTINGS,
        assumptions=("the labels of nanovlm.py:158 hold every class equally often, since their values are not known",),
        unknown_ops=("aten.mystery.default", "aten.riddle.default"),
    )


def shown_columns(line: str) -> int:
    """That a terminal takes: two for a wide sign, none for a mark on the sign before."""
    wide = sum(unicodedata.east_asian_width(sign) in ("W", "F") for sign in line)
    return len(line) + wide - sum(unicodedata.combining(sign) != 0 for sign in line)


def fits_80_columns(text: str) -> None:
    for line in text.splitlines():
        assert shown_columns(line) <= 80, line
        assert line.isprintable(), repr(line)


# ---- text


def test_the_report(full: Trace, golden: Golden) -> None:
    golden("report.txt", table.report(full, 8))


def test_the_report_for_a_terminal(full: Trace, golden: Golden) -> None:
    golden("report_fancy.txt", table.report(full, 2, markup, fancy=True))


def test_the_report_of_what_does_not_fit(tape: Tape, golden: Golden) -> None:
    tape.phase("load", 0)
    tape.segment(3 * MIB)
    tape.alloc(2 * MIB, Category.PARAMETER, "head.weight")
    tape.out_of_memory(2 * MIB)
    tape.segment(4 * MIB)
    tape.alloc(3 * MIB, Category.PARAMETER, "embedding.weight")
    golden("report_does_not_fit.txt", table.report(tape.trace(), 8, markup))


def test_the_report_of_nothing(empty: Trace, golden: Golden) -> None:
    golden("report_empty.txt", table.report(empty, 8, fancy=True))


def test_the_catalogue(golden: Golden) -> None:
    text = table.gpus(all_gpus())
    fits_80_columns(text)
    golden("gpus.txt", text)


def test_without_paint_there_is_no_markup(full: Trace) -> None:
    plain, painted = table.report(full, 8, fancy=True), table.report(full, 8, markup, fancy=True)
    assert painted != plain == re.sub(r"</?(red|green)>", "", painted)
    assert "\x1b" not in plain


def test_a_refusal_that_leaves_room_is_still_a_refusal(tape: Tape) -> None:
    """A fragmented allocator can fail below its limit."""
    tape.segment(MIB)
    tape.out_of_memory(MIB)
    assert "Does not fit: the allocator ran out of memory." in table.report(tape.trace(), 0)


def test_a_card_that_is_not_known_is_named_as_it_is(toy: Trace) -> None:
    text = table.report(dataclasses.replace(toy, gpu="NVIDIA Unheard Of"), 0)
    assert "a run on NVIDIA Unheard Of, torch 2.13.0+cpu, predicted" in text and "nvidia-smi" not in text


def test_settings_of_ones_own_are_said(toy: Trace) -> None:
    text = table.report(dataclasses.replace(toy, settings={"batch": 4, "note": "before"}), 0)
    assert text.startswith("a run on NVIDIA GeForce RTX 3090, torch 2.13.0+cpu, predicted; batch=4;\nnote=before\n")


def test_what_is_off_is_not_said_but_autocast_is(toy: Trace) -> None:
    off = SETTINGS | {"amp": "none", "checkpoint": "none", "clip": None, "accumulate": 1, "set": {}, "seq": None}
    head = table.report(dataclasses.replace(toy, settings=off), 0).split("\n\n")[0].replace("\n", " ")
    assert head == (
        "nanovlm-222m: batch 8, float32, no autocast, adamw; 2 steps on NVIDIA GeForce RTX 3090, torch 2.13.0+cpu, "
        "predicted"
    )


@pytest.mark.parametrize("top", [0, 1, 3])
def test_as_many_consumers_as_wanted(toy: Trace, top: int) -> None:
    assert len(re.findall(r"^ *[\d.]+ \S+ +\d+ x ", table.report(toy, top), re.MULTILINE)) == top


def test_long_names_keep_both_ends(tape: Tape) -> None:
    tape.phase("forward", 1)
    tape.segment(MIB)
    tape.op("aten.mm.default", "block." * 60 + "attn", "model.py:10")
    tape.alloc(1, Category.ACTIVATION)
    text = table.report(tape.trace(), 1)
    fits_80_columns(text)
    assert "output of mm in block." in text and "..." in text
    assert text.replace("\n", "").replace(" ", "").endswith("block.attn,model.py:10")


@pytest.mark.parametrize(
    ("op", "module", "said"),
    [
        ("aten.mm.default", "head", "at mm in head."),
        ("aten.mm.default", "", "at mm."),
        ("triton", "", "at triton."),
        ("two\nlines", "a\tb", "at two lines in a b."),
        ("\x1b[31mred", "", "at \\x1b[31mred."),
    ],
)
def test_where_the_peak_falls_is_one_plain_sentence(tape: Tape, op: str, module: str, said: str) -> None:
    tape.phase("forward", 1)
    tape.op(op, module)
    tape.segment(MIB)
    tape.alloc(1, Category.ACTIVATION)
    assert f"The peak falls in the forward of step 1, {said}\n" in table.report(tape.trace(), 0)


words = st.text(max_size=300) | st.sampled_from(["\x1b[31mred", "a\nb", "\udc80", "‮", "x" * 90])


@settings(deadline=None, max_examples=100, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_any_names_stay_within_the_columns_and_give_no_commands(data: st.DataObject) -> None:
    """Names come from files of others: no line break, no escape and nothing a terminal would obey gets through."""
    tape = Tape()
    for step in range(2):
        tape.phase(data.draw(words), step)
        tape.op(data.draw(words), data.draw(words), data.draw(words))
        tape.segment(2**41)
        tape.alloc(data.draw(st.integers(0, 2**40)), data.draw(st.sampled_from(Category)), data.draw(words))
    trace = tape.trace(
        gpu=data.draw(words), torch=data.draw(words), assumptions=(data.draw(words),), unknown_ops=(data.draw(words),),
        settings=data.draw(st.sampled_from([{}, SETTINGS, {"model": "x" * 99}, {"note": "\x07"}])),
    )  # fmt: skip
    for fancy in (True, False):
        fits_80_columns(table.report(trace, 8, fancy=fancy))


# ---- the line of blocks


def test_the_line_of_blocks(toy: Trace) -> None:
    """Of 12 events the highest, 4300, is the full block; 4300 × 7/8 = 3762.5 would be the next."""
    line, marks, names = table.report(toy, 0, fancy=True).split("\n\n")[3].splitlines()
    assert line == "▁▂▃▄▅█▅▇▆▄▆▄"
    assert marks == "l if ^    o"
    assert names == "load, input, forward, backward, optimizer, ^ peak"


# ---- JSON


def test_the_keys_that_scripts_hold_on_to(full: Trace) -> None:
    report = json.loads(json.dumps(render_json.report(full, 8)))
    assert report["schema"] == 1 and report["gpu"] == "rtx3090" and report["fits"] is True
    assert report["peak"] == {
        "requested": 4300, "allocated": 5632, "reserved": 2 * MIB, "phase": "backward", "step": 1,
        "op": "aten.mm.default", "module": "blocks.1.mlp",
    }  # fmt: skip
    assert report["after_load"] == {"requested": 1000, "allocated": 1024, "reserved": 2 * MIB}
    assert report["allocations"] == 7
    assert report["categories"] == {"workspace": 2000, "activations": 1200, "parameters": 1000, "inputs": 100}
    assert report["assumptions"] == list(full.assumptions) and report["unknown_ops"] == list(full.unknown_ops)
    assert report["settings"] == SETTINGS and report["origin"] == "predicted" and report["torch"] == "2.13.0+cpu"


def test_a_row_of_the_largest(full: Trace) -> None:
    report = render_json.report(full, 2)
    assert len(report["top"]) == 2
    row = report["top"][1]
    assert {"name", "op", "module", "source", "bytes", "count", "shape", "dtype", "law"} <= row.keys()
    assert (row["bytes"], row["count"], row["shape"], row["dtype"]) == (1200, 2, [10, 15], "float32")
    assert (row["op"], row["module"], row["source"]) == ("aten.mm.default", "blocks.*.mlp", "model.py:10")


def test_what_does_not_fit_says_so(tape: Tape) -> None:
    tape.out_of_memory(1)
    assert render_json.report(tape.trace(), 8)["fits"] is False


def test_nothing_is_reported_too(empty: Trace) -> None:
    report = render_json.report(empty, 8)
    assert report["peak"]["requested"] == 0 and report["top"] == [] and report["categories"] == {}
