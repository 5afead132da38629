"""`memgraph check`: what differs between a prediction and a recording, and what that does to the peak."""

from __future__ import annotations

import dataclasses
import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks.recordings import packed as recordings
from memgraph.analyze.blame import rule_of
from memgraph.analyze.compare import compare, within
from memgraph.analyze.join import joined
from memgraph.analyze.refusal import Refusal
from memgraph.analyze.served import placed, served
from memgraph.cli.main import main
from memgraph.gpu.allocator.caching import Allocator
from memgraph.render import table_check
from memgraph.render.snapshot import pickled
from memgraph.trace import Action, Buffer, Category, Event, Events, Op, Role, Trace
from tests.conftest import Tape
from tests.render.drawn import run

KIB = 1024


def step(activation: int = 4 * KIB, extra: int = 0, early: bool = False, scratch: bool = True) -> Trace:
    """A weight, an activation, scratch inside its op, an `extra` buffer, and a gradient: the peak comes with it, or
    with the scratch."""
    tape = Tape()
    tape.phase("load", 0)
    tape.op("aten._to_copy.default")
    tape.segment(1024 * KIB)
    tape.alloc(8 * KIB, Category.PARAMETER, "weight")
    tape.phase("forward", 1)
    tape.op("aten.mm.default", module="blocks.0")
    kept = tape.alloc(activation, Category.ACTIVATION)
    if scratch:
        tape.op("aten.sum.dim_IntList", module="blocks.0")
        tape.free(tape.alloc(2 * KIB, Category.TEMPORARY))
    if extra:
        tape.op("aten.add.Tensor", module="blocks.1")
        tape.alloc(extra, Category.ACTIVATION)
    if early:
        tape.free(kept)
    tape.phase("backward", 1)
    tape.op("aten.mm.default", module="blocks.0", forward=1)
    tape.alloc(8 * KIB, Category.GRADIENT)
    if not early:
        tape.free(kept)
    return tape.trace()


def test_the_same_run_matches_whole() -> None:
    found = compare(step(), step())
    assert (found.predicted, found.measured, found.matched, found.lifetimes, found.differences) == (4, 4, 4, 0, ())
    assert [(p.name, p.predicted, p.matched) for p in found.phases] == [
        ("load", 1, 1),
        ("forward", 2, 2),
        ("backward", 1, 1),
    ]
    assert all(figure.ratio == 1 for figure in found.peaks)


def test_what_is_not_predicted_is_named_with_its_effect_on_the_peak() -> None:
    """8 + 4 + 8 KiB at the peak; 3 KiB more in the recording, alive there."""
    found = compare(step(), step(extra=3 * KIB))
    assert found.peaks[0] == (20 * KIB, 23 * KIB)
    (row,) = found.differences
    assert (row.kind, row.number, row.bytes, row.effect) == ("missing", 1, -3 * KIB, -3 * KIB)


def test_what_is_predicted_too_much_has_its_own_op() -> None:
    found = compare(step(extra=3 * KIB), step())
    (row,) = found.differences
    assert (row.kind, row.op, row.module, row.bytes, row.effect) == ("extra", "add", "blocks.*", 3 * KIB, 3 * KIB)


def test_scratch_that_is_gone_at_the_peak_has_no_effect_on_it() -> None:
    (row,) = compare(step(), step(scratch=False)).differences
    assert (row.kind, row.op, row.bytes, row.effect) == ("extra", "sum", 2 * KIB, 0)


def test_another_size_is_a_pair() -> None:
    """5 KiB for 4: one of each in the gap."""
    (row,) = compare(step(), step(activation=5 * KIB)).differences
    assert (row.kind, row.op, row.number, row.bytes, row.effect) == ("size", "mm", 1, -KIB, -KIB)


def test_another_life_is_told_with_what_it_does_to_the_peak() -> None:
    """The recording lets go of 4 KiB before the gradient comes: predicted, they are there at the peak."""
    found = compare(step(), step(early=True))
    assert found.matched == 4 and found.lifetimes == 1
    (row,) = found.differences
    assert (row.kind, row.op, row.bytes, row.effect) == ("lifetime", "mm", 4 * KIB, 4 * KIB)


def test_the_effects_add_up_to_what_the_peaks_differ_by_if_they_fall_together() -> None:
    predicted, measured = step(extra=3 * KIB), step(activation=6 * KIB)
    found = compare(predicted, measured)
    assert sum(row.effect for row in found.differences) == predicted.peak.requested - measured.peak.requested


def test_order_of_frees_between_two_allocations_is_no_difference() -> None:
    def freed(order: tuple[int, int]) -> Trace:
        tape = Tape()
        tape.phase("forward", 1)
        tape.op("aten.mm.default")
        tape.segment(64 * KIB)
        both = [tape.alloc(KIB, Category.ACTIVATION), tape.alloc(2 * KIB, Category.ACTIVATION)]
        for index in order:
            tape.free(both[index])
        tape.alloc(512, Category.ACTIVATION)
        return tape.trace()

    assert compare(freed((0, 1)), freed((1, 0))).lifetimes == 0


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**32), st.integers(1, 40))
def test_whatever_is_put_in_or_left_out_the_counts_add_up(seed: int, size: int) -> None:
    """Matched and unmatched make up both sides, and each unmatched one is in a difference."""
    chance = random.Random(seed)

    def made(sizes: list[int]) -> Trace:
        tape = Tape()
        tape.phase("forward", 1)
        tape.op("aten.mm.default")
        tape.segment(2**24)
        live = []
        for wanted in sizes:
            live.append(tape.alloc(wanted, Category.ACTIVATION))
            if chance.random() < 0.5:
                tape.free(live.pop(chance.randrange(len(live))))
        return tape.trace()

    left = [512 * chance.randint(1, 6) for _ in range(size)]
    right = [s for s in left if chance.random() < 0.8] + [
        512 * chance.randint(1, 6) for _ in range(chance.randint(0, 3))
    ]
    found = compare(made(left), made(right))
    rows = {
        kind: sum(row.number for row in found.differences if row.kind == kind) for kind in ("extra", "missing", "size")
    }
    assert found.matched + rows["extra"] + rows["size"] == found.predicted == len(left)
    assert found.matched + rows["missing"] + rows["size"] == found.measured == len(right)
    assert sum(phase.matched for phase in found.phases) == found.matched


def test_a_recording_of_the_h200_against_itself_and_the_allocator_model() -> None:
    """With the lowest address where blocks tie, as torch 2.11 has it, and made-up addresses: within 0.3 %."""
    measured = recordings.read(recordings.FOLDER / "b1_s128.json.gz")
    found = served(measured)
    assert found.requested == measured.peak.requested
    assert abs(found.allocated / measured.peak.allocated - 1) < 0.003


def test_the_hooks_blocks_are_not_pytorchs() -> None:
    """A recording through the hook has requests only: they are served by the model."""
    measured = dataclasses.replace(step(), settings={"via": "hook"})
    found = compare(step(), measured)
    assert found.peaks[1].measured == found.allocator.allocated
    assert found.peaks[2].measured == found.allocator.reserved == 2 * 1024 * KIB


def test_the_model_is_told_where_the_segments_lie() -> None:
    """It then puts every block where PyTorch did; as another torch's allocator it does not. Neither is the capture's
    fault: the requests are the same."""
    measured = recordings.read(recordings.FOLDER / "b1_s128.json.gz")
    here = placed(measured)
    assert here is not None and here.same == here.blocks == 12_220
    assert here.allocated == measured.peak.allocated
    other = placed(dataclasses.replace(measured, torch="2.15.0"))
    assert other is not None and other.same < other.blocks - 1000
    text = table_check.report(compare(measured, dataclasses.replace(measured, torch="2.15.0")), 10)
    assert "so here the model of the allocator is wrong" in " ".join(text.split())
    unknown = placed(dataclasses.replace(measured, torch="unknown"))  # a snapshot does not say
    assert unknown is not None and unknown.same == unknown.blocks and unknown.torch == "2.11"


def test_blocks_larger_than_asked_are_found_from_the_requests() -> None:
    """A snapshot of PyTorch has requests: its blocks are those of the model, where all addresses agree."""
    measured = recordings.read(recordings.FOLDER / "b1_s128.json.gz")
    rounded = Events(
        event._replace(size=-(-measured.buffers[event.buffer].size // 512) * 512) if event.buffer >= 0 else event
        for event in measured.events
    )
    snapshot = dataclasses.replace(measured, events=rounded, settings={})
    assert snapshot.peak.allocated < measured.peak.allocated
    assert compare(measured, snapshot).peaks[1].ratio == 1


def test_a_cache_that_was_emptied_is_emptied_in_the_model() -> None:
    """4 MiB go and come again: a new segment, as the old one was given back."""
    made = Allocator(2**40)
    events = Events()
    made.on_segment = lambda taken, address, size: events.append(
        Event(Action.SEGMENT_ALLOC if taken else Action.SEGMENT_FREE, -1, -1, address, size)
    )
    for buffer, size in enumerate((4 * KIB * KIB, 30 * KIB * KIB)):
        block = made.malloc(size)
        events.append(Event(Action.ALLOC, buffer, -1, block.address, block.size))
        events.append(Event(Action.FREE, buffer, -1, block.address, block.size))
        made.free(block)
        made.empty_cache()
    trace = Trace("measured", "h200", 2**40, "unknown", {}, (), (Buffer(4 * KIB * KIB, -1), Buffer(30 * KIB * KIB, -1)),
                  events, ())  # fmt: skip
    assert served(trace).reserved == 30 * KIB * KIB == trace.peak.reserved
    found = placed(trace)
    assert found is not None and found.same == found.blocks == 2


def out_of_memory(trace: Trace, after: int, size: int, **fields: Any) -> Trace:
    """As recorded on a smaller card: over at the refusal."""
    place = [i for i, action in enumerate(trace.events.columns[0]) if action == Action.ALLOC][after]
    events = Events(event._replace(op=-1) for event in trace.events[:place])
    events.append(Event(Action.OUT_OF_MEMORY, -1, -1, 0, size))
    buffers = tuple(buffer._replace(op=-1) for buffer in trace.buffers[:after])
    return dataclasses.replace(trace, events=events, buffers=buffers, ops=(), phases=(), origin="measured", **fields)


def test_the_same_refusal_is_said() -> None:
    """The prediction goes on as if the card were larger; what comes then is no difference."""
    predicted = step()
    place = predicted.spans[0][3]
    rows = list(predicted.events)
    rows.insert(place, Event(Action.OUT_OF_MEMORY, -1, predicted.events[place].op, 0, 8 * KIB))
    predicted = dataclasses.replace(
        predicted, events=Events(rows), phases=(*predicted.phases[:2], predicted.phases[2]._replace(stop=len(rows)))
    )
    measured = out_of_memory(step(), 3, 8 * KIB)
    measured = dataclasses.replace(
        measured, buffers=tuple(buffer._replace(op=-1) for buffer in measured.buffers),
        events=Events(event._replace(op=-1) for event in measured.events),
    )  # fmt: skip
    found = compare(predicted, measured)
    assert found.refused[0] is not None and found.refused[1] is not None
    assert found.refused[0][:2] == found.refused[1][:2] == (3, 8 * KIB)
    assert (found.predicted, found.measured, found.matched, found.differences) == (3, 3, 3, ())
    assert found.peaks[2].ratio == 1
    assert "the same allocation" in table_check.report(found, 10)


def test_torchs_history_tells_a_refusal_rounded_up() -> None:
    ours, theirs = Refusal(7, 1000, "aten.mm.default", "forward", 1), Refusal(7, 1024, "", "", 0)
    assert ours.is_that_of(theirs)
    assert not ours.is_that_of(theirs._replace(allocation=8)) and not ours.is_that_of(theirs._replace(size=1536))


def test_the_hook_refuses_by_requested_bytes() -> None:
    """12 KiB and 2 more pass 13 KiB: the third allocation."""
    measured = out_of_memory(step(), 2, 2 * KIB, memory=13 * KIB, settings={"via": "hook"})
    found = compare(step(), measured)
    assert found.refused[0] is not None and found.refused[0][:3] == (2, 2 * KIB, "aten.sum.dim_IntList")
    assert found.refused[1] is not None and found.refused[1][:2] == (2, 2 * KIB)


def test_another_refusal_and_none_are_said() -> None:
    measured = out_of_memory(step(), 2, 2 * KIB)
    assert "The recording is out of memory, asking for 2.000 KiB after 2 allocations" in table_check.report(
        compare(step(), measured), 10
    )


@pytest.mark.parametrize(
    ("op", "role", "rule"),
    [
        ("aten.sum.dim_IntList", Role.TEMPORARY, "gpu/rules/reductions.py"),
        ("aten.sum.dim_IntList", Role.OUTPUT, "its own output"),
        ("aten.mm.default", Role.LIBRARY, "gpu/cublas.py"),
        ("aten.gelu.default", Role.TEMPORARY, "gpu/rules/plain.py"),
        ("mine.own_kernel.default", Role.TEMPORARY, "no rule"),
    ],
)
def test_a_difference_names_the_rule(op: str, role: Role, rule: str) -> None:
    assert rule_of("extra", Op(op, 0), role) == rule
    assert rule_of("lifetime", Op(op, 0), role) == ""


def test_other_settings_are_said_first() -> None:
    ours = dataclasses.replace(step(), settings={"batch": 8, "seq": 128, "gpu": "h200"}, gpu="h200")
    theirs = dataclasses.replace(step(), settings={"batch": 4, "seq": 128, "via": "hook"}, gpu="NVIDIA H100 80GB HBM3")
    assert table_check.report(compare(ours, theirs), 10).startswith(
        "These are not the same run: batch 8 predicted, 4 measured; gpu h200 predicted,\nh100 measured."
    )


def test_torches_whose_allocators_differ_are_said() -> None:
    found = compare(dataclasses.replace(step(), torch="2.13.0"), dataclasses.replace(step(), torch="2.11.0+cu130"))
    assert found.versions == ("2.13.0", "2.11.0+cu130")
    assert (
        compare(dataclasses.replace(step(), torch="2.13.0"), dataclasses.replace(step(), torch="2.15.0")).versions
        is None
    )


def test_two_ways_of_recording_become_one() -> None:
    """The history has the blocks, the hook the ops; and what differs between the two is said."""
    named = step()
    plain = dataclasses.replace(
        named, buffers=tuple(buffer._replace(op=-1) for buffer in named.buffers), ops=(), settings={"batch": 1},
        events=Events(event._replace(op=-1) for event in named.events),
    )  # fmt: skip
    both = joined(plain, named)
    both.self_check()
    assert both.settings["hook"] == {"requested": 20 * KIB, "allocations": 4, "matched": 4}
    assert [buffer.op for buffer in both.buffers] == [buffer.op for buffer in named.buffers] and both.ops == named.ops
    assert both.peak.op == named.peak.op and both.assumptions == ()
    other = joined(plain, step(extra=KIB))
    (note,) = other.assumptions
    assert "4 allocations are in both, of 4 and 5" in note


def test_tolerance() -> None:
    found = compare(step(extra=KIB), step())  # 21 KiB for 20: 5 %
    assert within(found, 0.051) and not within(found, 0.049)


Check = Callable[..., tuple[int, str]]


@pytest.fixture
def check(tmp_path: Path) -> Check:
    def run_it(predicted: Trace, measured: Trace | bytes, *arguments: str) -> tuple[int, str]:
        predicted.save(tmp_path / "predicted.memgraph", force=True)
        other = tmp_path / ("measured.pickle" if isinstance(measured, bytes) else "measured.memgraph")
        if isinstance(measured, bytes):
            other.write_bytes(measured)
        else:
            measured.save(other, force=True)
        result = CliRunner().invoke(main, ["check", str(tmp_path / "predicted.memgraph"), str(other), *arguments])
        return result.exit_code, result.output

    return run_it


def test_the_command_is_a_gate(check: Check) -> None:
    assert check(step(), step(), "--tolerance", "0%")[0] == 0
    assert check(step(extra=KIB), step())[0] == 0
    code, text = check(step(extra=KIB), step(), "--tolerance", "1%")
    assert code == 4 and "off by +5.000 %, more than 1%" in text
    assert check(step(), step(), "--tolerance", "a little")[0] == 2


def test_a_run_that_fits_where_the_other_does_not_is_outside_any_tolerance(check: Check) -> None:
    measured = out_of_memory(step(), 3, 8 * KIB)
    code, text = check(step(), measured, "--tolerance", "100%")
    assert code == 4 and "the two are not out of memory at the same allocation" in text
    assert check(measured, measured, "--tolerance", "0%")[0] == 0


def test_json_has_the_fixed_names(check: Check) -> None:
    code, text = check(step(extra=KIB), step(), "--format", "json")
    data = json.loads(text)
    assert code == 0
    assert (data["predicted"], data["measured"], data["matched"]) == (5, 4, 4)
    assert data["peak"]["requested"] == {"predicted": 21 * KIB, "measured": 20 * KIB, "ratio": 1.05}
    assert data["differences"][0]["op"] == "add"


def test_a_snapshot_of_pytorch_is_a_recording(check: Check) -> None:
    """Our own prediction, written as torch writes snapshots, matches itself."""
    code, text = check(run(), pickled(run()), "--format", "json")
    data = json.loads(text)
    assert code == 0
    assert data["matched"] == data["predicted"] == data["measured"] and data["lifetimes"] == 0
    assert data["peak"]["requested"]["ratio"] == 1


def test_a_hostile_pickle_runs_nothing(check: Check, tmp_path: Path) -> None:
    evil = f"(S'touch {tmp_path}/owned'\np0\n".encode()
    body = b"\x80\x02cposix\nsystem\n" + evil + b"tR."
    code, text = check(step(), body)
    assert code == 1 and "will not be run" in text
    assert not (tmp_path / "owned").exists()


def test_the_report(golden: Callable[[str, str], None]) -> None:
    golden("check.txt", table_check.report(compare(step(extra=3 * KIB), step(activation=6 * KIB, early=True)), 10))
