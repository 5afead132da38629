"""Differences: every split adds up to the change, and the first three lines say why."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st

from memgraph.analyze.cause import explain
from memgraph.analyze.changes import Change, changes
from memgraph.analyze.diff import Difference, difference
from memgraph.cli.main import main
from memgraph.render import diff_json, table_diff
from memgraph.trace import Category, Events, Trace
from tests.analyze.runs_by_hand import step
from tests.conftest import Tape


def splits(found: Difference) -> dict[str, int]:
    """The sum of each split."""
    names = ("tensors", "places", "modules", "phases", "categories", "laws")
    return {name: sum(part.change for part in getattr(found, name)) for name in names}


SIZES = st.tuples(st.integers(1, 9), st.integers(1, 90), st.booleans(), st.integers(1, 3))


@given(SIZES, SIZES)
@settings(max_examples=60, deadline=None)
def test_every_split_adds_up_to_the_change(one: tuple[int, int, bool, int], other: tuple[int, int, bool, int]) -> None:
    before, after = (step(batch, seq, squares=squares, blocks=blocks) for batch, seq, squares, blocks in (one, other))
    found = difference(before, after)
    assert set(splits(found).values()) == {found.change}
    assert found.change == after.peak.requested - before.peak.requested
    for name in ("tensors", "modules", "phases"):
        assert sum(part.before for part in getattr(found, name)) == before.peak.requested
        assert sum(part.after for part in getattr(found, name)) == after.peak.requested


def test_a_longer_sequence_is_explained_by_its_laws() -> None:
    # B·S·1320 + B·S²·16 + 8000: at B 8, S 128: 1,351,680 + 2,097,152; at 512: 5,406,720 + 33,554,432
    found = difference(step(8, 128), step(8, 512))
    assert found.change == (5_406_720 - 1_351_680) + (33_554_432 - 2_097_152)
    laws = {part.name: part.change for part in found.laws}
    assert laws == {"as S": 4_055_040, "as S²": 31_457_280, "constant": 0}
    rows = {part.name: part for part in found.tensors}
    assert rows["output of bmm in blocks.*, model.py:11"].law == "as S²"
    assert rows["output of bmm in blocks.*, model.py:11"].formula == "S²·8·4·2"
    assert rows["output of mm in head, model.py:20"].formula == "S·8·100·4"
    lines = explain(found)
    assert lines[0] == "+33.87 MiB requested (3.297 MiB to 37.16 MiB): seq went from 128 to 512."
    assert lines[1] == "+31.50 MiB blocks.*, +2.367 MiB elsewhere; +30.00 MiB grows as S², +3.867 MiB grows as S."
    assert lines[2] == "Not changed: precision (no autocast, float32), parameters 7.812 KiB."


def test_that_nothing_grows_with_the_square_is_said() -> None:
    lines = explain(difference(step(8, 128, squares=False), step(8, 512, squares=False)))
    assert lines[1].endswith("; all of it grows as S.")
    assert lines[2].endswith("; nothing grows as S².")


def test_a_batch_and_a_length_at_once() -> None:
    found = difference(step(2, 16), step(6, 32))
    # hidden and logits: 3 x 2 = 6 times; scores: 3 x 4 = 12 times
    assert {part.name for part in found.laws} == {"as B·S", "as B·S²", "constant"}
    assert found.settings == (Change("batch", "2", "6"), Change("seq", "16", "32"))


def test_a_setting_that_only_follows_is_left_out() -> None:
    # `length` is `seq` under another name
    assert changes(step(8, 128), step(8, 512)) == (Change("seq", "128", "512"),)


def test_two_changes_that_happen_to_be_equal_are_both_told() -> None:
    one, other = step(8, 8), step(16, 16)
    assert [change.name for change in changes(one, other)] == ["batch", "seq"]


def test_equal_runs() -> None:
    found = difference(step(8, 128), step(8, 128))
    assert found.change == 0
    assert explain(found)[:2] == (
        "The requested peak is 3.297 MiB in both; no setting differs.",
        "Nothing at the peak changed.",
    )


def test_a_model_edit_names_what_is_new() -> None:
    found = difference(step(8, 128, squares=False), step(8, 128))
    assert explain(found)[0].endswith("the same settings run other ops: the model's code changed.")
    (new,) = [part for part in found.tensors if part.law == "new"]
    assert new.name == "output of bmm in blocks.*, model.py:11"
    assert (new.change, new.count_before, new.count_after) == (2 * 8 * 128 * 128 * 8, 0, 2)


def test_lines_moved_by_an_edit_above_them_make_no_difference() -> None:
    before, after = step(8, 128), step(8, 128)
    ops = tuple(op._replace(source=op.source.replace(":1", ":4")) for op in after.ops)
    found = difference(before, dataclasses.replace(after, ops=ops))
    assert [part for part in found.tensors if part.change] == []


def test_lines_of_one_kind_are_paired_in_their_order() -> None:
    def two_sums(first: int, line: int) -> Trace:
        tape = Tape()
        tape.phase("forward", 1)
        tape.segment(2**21)
        for number, size in enumerate((first, 300)):
            tape.op("aten.add.Tensor", "block", f"model.py:{line + number}")
            tape.alloc(size, Category.ACTIVATION, shape=(size,), dtype="uint8")
        return tape.trace()

    found = difference(two_sums(100, 10), two_sums(700, 20))
    assert {part.name: (part.before, part.after) for part in found.tensors} == {
        "output of add in block, model.py:20": (100, 700),
        "output of add in block, model.py:21": (300, 300),
    }


def test_another_precision_is_named_on_the_tensor() -> None:
    before = step(8, 128)
    buffers = tuple(
        buffer._replace(size=buffer.size // 2, dtype="bfloat16") if buffer.shape == (8, 128, 64) else buffer
        for buffer in before.buffers
    )
    after = dataclasses.replace(before, buffers=buffers, settings={**before.settings, "amp": "bf16"})
    found = difference(before, after)
    assert [(part.law, part.change) for part in found.tensors if part.change] == [
        ("float32 -> bfloat16", -2 * 8 * 128 * 128)
    ]
    assert "precision" not in explain(found)[2]


def test_a_peak_that_moves_is_told() -> None:
    # at B 1, S 1 the optimizer step holds more: weights, gradients and moments, 3 x 8000 + 8
    small, large = step(1, 1), step(8, 128)
    assert (small.peak.requested, small.peak.phase, large.peak.phase) == (24_008, "optimizer", "backward")
    assert explain(difference(small, large))[1].startswith("The peak moves from the optimizer to the backward: ")


def test_a_measured_run_knows_no_ops_and_equal_sizes_cancel() -> None:
    predicted = step(8, 128)
    extra = predicted.buffers[0]._replace(size=6000)  # 2,000 more than a weight
    measured = dataclasses.replace(
        predicted, origin="measured", gpu="NVIDIA GeForce RTX 3090", torch="2.11.0+cu130", ops=(), phases=(),
        events=Events(event._replace(op=-1) for event in predicted.events),
        buffers=tuple(b._replace(op=-1, name="", shape=(), dtype="") for b in (extra, *predicted.buffers[1:])),
    )  # fmt: skip
    found = difference(predicted, measured)
    assert found.change == 2000
    assert splits(found) == dict.fromkeys(splits(found), 2000)
    assert {part.name: part.change for part in found.tensors if part.change} == {
        "4,000 bytes each, like parameter blocks.*.weight": -4000,
        "6,000 bytes each": 6000,
    }
    assert changes(predicted, measured) == (
        Change("origin", "predicted", "measured"), Change("torch", "2.13.0+cpu", "2.11.0+cu130"),
    )  # fmt: skip
    assert explain(found)[0].endswith("predicted against measured, torch went from 2.13.0+cpu to 2.11.0+cu130.")


# Text and files.


def test_the_table(golden: Callable[[str, str], None]) -> None:
    golden("diff.txt", table_diff.report(difference(step(8, 128), step(8, 512)), top=3))


def test_the_object_adds_up_however_short_it_is() -> None:
    found = difference(step(8, 128), step(8, 512))
    shown: dict[str, Any] = json.loads(json.dumps(diff_json.report(found, top=1)))
    assert shown["change"] == found.change
    for name in ("tensors", "modules", "phases", "categories", "laws"):
        assert len(shown[name]) <= 2
        assert sum(part["change"] for part in shown[name]) == found.change
    assert shown["explanation"] == list(explain(found))


@pytest.fixture
def saved(tmp_path: Path) -> Callable[[str, Trace], str]:
    def save(name: str, trace: Trace) -> str:
        trace.save(tmp_path / name)
        return str(tmp_path / name)

    return save


def test_two_files(saved: Callable[[str, Trace], str]) -> None:
    paths = [saved("a.memgraph", step(8, 128)), saved("b.memgraph", step(8, 512))]
    result = CliRunner().invoke(main, ["diff", *map(str, paths)])
    assert result.exit_code == 0
    assert result.output.splitlines()[:3] == list(explain(difference(step(8, 128), step(8, 512))))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "nothing differs: give an option two values"),
        (["--seq", "128"], "nothing differs"),
        (["--seq", "1,2,3"], "seq has 3 values"),
        (["--set", "vit_img_size=1,2,3"], "--set vit_img_size has 3 values"),
        (["A", "A", "A"], "3 traces"),
        (["A", "A", "--seq", "4"], "--seq describes a run"),
    ],
)
def test_what_cannot_be_compared(saved: Callable[[str, Trace], str], arguments: list[str], message: str) -> None:
    path = saved("a.memgraph", step(8, 128))
    result = CliRunner().invoke(main, ["diff", *(path if word == "A" else word for word in arguments)])
    assert result.exit_code == 2
    assert message in result.output


def test_more_steps_of_the_same_program_are_no_change_of_its_code(tmp_path: Path) -> None:
    """Each step keeps its result: 64 × 512 floats, 128 KiB."""
    from memgraph.api import run_script

    script = tmp_path / "train.py"
    script.write_text(
        "import torch\n"
        "net = torch.nn.Linear(512, 512).cuda()\n"
        "opt = torch.optim.SGD(net.parameters(), 0.1)\n"
        "outs = []\n"
        "while True:\n"
        "    out = net(torch.zeros(64, 512, device='cuda'))\n"
        "    outs.append(out.detach())\n"
        "    out.mean().backward(); opt.step(); opt.zero_grad()\n"
    )
    few, many = (run_script(str(script), gpu="t4", steps=steps)[0] for steps in (3, 8))
    text = explain(difference(few, many))[0]
    assert "the same program over 3 and 8 steps; grows 128.0 KiB a step: " in text
    assert f"held by the list `outs`, filled at {tmp_path.name}/train.py:7" in text
    assert "code changed" not in text
