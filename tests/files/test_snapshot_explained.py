"""What a snapshot says without its model: phases, categories, ops and lines."""

from __future__ import annotations

import gzip
import pickle
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import memgraph
from memgraph.analyze.attribution import consumers
from memgraph.analyze.peak import categories
from memgraph.render import table
from memgraph.trace import Action, Category, Op, Trace
from tests import DATA
from tests.files.stacks_by_hand import TORCH, python

MIB = 2**20
Frames = list[dict[str, Any]]


def written(tmp_path: Path, data: Any) -> Trace:
    path = tmp_path / "a.pickle"
    path.write_bytes(pickle.dumps(data))
    return memgraph.load(path)


def recorded(name: str, tmp_path: Path, keep: Callable[[dict[str, Any]], bool] = lambda _: True) -> Trace:
    """What `benchmarks/accuracy/snapshots.py` recorded on an H200, with some of its frames."""
    data = pickle.loads(gzip.decompress((DATA / "snapshots" / f"{name}.pickle.gz").read_bytes()))
    blocks = [block for segment in data["segments"] for block in segment["blocks"]]
    for entry in [*data["device_traces"][0], *blocks]:
        entry["frames"] = [frame for frame in entry.get("frames", ()) if keep(frame)]
    return written(tmp_path, data)


def _native(frame: dict[str, Any]) -> bool:
    return not str(frame["filename"]).endswith(".py")


TOLD = {
    "both": (1010161736, 1021438976, 1124073472), "convnet": (175026632, 175431680, 224395264),
    "expandable": (1010161736, 1010166784, 1096810496), "oom": (813590592, 822769664, 859832320),
    "python": (1010161736, 1023536128, 1124073472),
}  # fmt: skip
"""Requested, allocated and reserved bytes at most, as torch's own statistics had them at the end of each."""


@pytest.mark.parametrize("name", TOLD)
def test_the_peaks_are_those_of_torchs_statistics(name: str, tmp_path: Path) -> None:
    """To the byte, also of blocks that were larger than asked and are gone."""
    assert recorded(name, tmp_path).peak[:3] == TOLD[name]


WEIGHTS = 16000 * 512 * 2 + 256 * 512 + 4 * (12 * 512**2 + 13 * 512) + 2 * 512
"""Of tokens and head, places, four blocks (12 d² + 13 d), and the last norm."""
LOGITS = 8 * 256 * 16000


@pytest.mark.parametrize(
    ("name", "keep"),
    [("both", lambda _: True), ("both", _native), ("python", lambda _: True), ("window", lambda _: True)],
    ids=["both", "C++ alone", "Python alone", "from the second step on"],
)
def test_categories_are_the_same_whatever_the_frames(
    name: str, keep: Callable[[dict[str, Any]], bool], tmp_path: Path
) -> None:
    """At the peak, in the backward of the second step's loss: weights, two moments of each, and two gradients of the
    logits in fp32. What was there before a window is told by the sizes of its gradients."""
    trace = recorded(name, tmp_path, keep)
    sizes = {row.category: row.bytes for row in categories(trace)}
    assert sizes[Category.PARAMETER] == 4 * WEIGHTS
    assert sizes[Category.OPTIMIZER] == 8 * WEIGHTS
    assert sizes[Category.TEMPORARY] == pytest.approx(2 * 4 * LOGITS, abs=4)
    assert sizes[Category.WORKSPACE] >= 2 * 2**25 and sizes.get(Category.UNKNOWN, 0) < MIB
    assert trace.peak.phase == "backward"
    names = [(phase.name, phase.step) for phase in trace.phases]
    assert names[-3:] == [(name, 1 if ("before", 0) in names else 2) for name in ("forward", "backward", "optimizer")]


@pytest.mark.parametrize(
    ("name", "kind", "share"), [("both", "gpt", 0.99), ("convnet", "convnet", 0.9), ("window", "gpt", 0.88)]
)
def test_the_bytes_at_the_peak_are_told_as_a_prediction_tells_them(
    name: str, kind: str, share: float, tmp_path: Path
) -> None:
    """Category, op and line of each, without the model. Of the convnet the rest is cuDNN's workspace, which torch 2.11
    had otherwise than predicted, and what that moves; of the window its parameters, whose making it does not show."""
    from benchmarks.accuracy import snapshots

    with memgraph.virtual_gpu("h200") as gpu:
        snapshots.train(kind, lambda _: None)
    ours, theirs = Counter(_rows(gpu.trace)), Counter(_rows(recorded(name, tmp_path)))
    assert sum(row[0] * count for row, count in (ours & theirs).items()) > share * gpu.trace.peak.requested


def test_a_recurrent_layer_is_told_as_its_prediction_tells_it(tmp_path: Path) -> None:
    """But for the one buffer of weights that cuDNN flattens, whose op was named by its C++ function: 4.6 %. What its
    backward frees itself, 196,084,224 bytes, is a workspace."""
    from benchmarks.accuracy import snapshot_loops

    with memgraph.virtual_gpu("h200") as gpu:
        snapshot_loops.tagger(lambda _: None, 3)
    found = recorded("recurrent", tmp_path)
    ours, theirs = Counter(_rows(gpu.trace)), Counter(_rows(found))
    assert sum(row[0] * count for row, count in (ours & theirs).items()) > 0.95 * gpu.trace.peak.requested
    assert (196084224, Category.WORKSPACE, "_cudnn_rnn_backward") in {row[:3] for row in theirs}


def test_of_a_window_the_parameters_alone_have_no_op_and_line(tmp_path: Path) -> None:
    """A transformer of torch's own from its third step on: 39,373,696 bytes of weights, and the 4 of the loss's
    gradient, of 636,338,048 are told otherwise."""
    from benchmarks.accuracy import snapshot_windows

    with memgraph.virtual_gpu("h200", torch="2.11") as gpu:
        snapshot_windows.seq(lambda _: None, 3)
    found = recorded("late", tmp_path)
    ours, theirs = Counter(_rows(gpu.trace)), Counter(_rows(found))
    weights = sum(row.bytes for row in categories(found) if row.category is Category.PARAMETER)
    assert sum(row[0] * count for row, count in (ours - theirs).items()) == weights + 4 == 39373700
    assert "are inferred" in " ".join(found.assumptions)


def _rows(trace: Trace) -> Iterator[tuple[int, str, str, str]]:
    for buffer in map(trace.buffers.__getitem__, trace.live_at(trace.peak.event)):
        op = trace.ops[buffer.op] if buffer.op >= 0 else Op("aten.unknown", 0)
        yield buffer.size, buffer.category, op.name.split(".")[1], op.source


def test_a_backward_has_the_lines_of_its_forward(tmp_path: Path) -> None:
    """The logits' product, a gelu, a layer norm: each node has the line of the op that it differentiates."""
    trace = recorded("both", tmp_path)
    lines: dict[str, set[str]] = {}
    for op in trace.ops:
        if op.forward >= 0:
            lines.setdefault(op.name, set()).add(op.source.rpartition(":")[2])
    assert lines["aten.gelu_backward.default"] == {"60"}
    assert lines["aten.nll_loss_backward.default"] == {"79"}
    assert lines["aten.native_layer_norm_backward.default"] == {"59", "60", "78"}
    assert lines["aten.mm.default"] == {"46", "48", "60", "61", "78"}
    assert any("reverse order" in note for note in trace.assumptions)


@pytest.mark.parametrize("name", [*TOLD, "window", "window_python", "state"])
def test_every_one_has_a_report(name: str, tmp_path: Path) -> None:
    """With its diagnoses: rules that ask for shapes are silent where ops have none."""
    assert "at the peak" in table.report(recorded(name, tmp_path), 8)


def test_what_a_real_failure_asked_for(tmp_path: Path) -> None:
    """The logits' log-softmax in fp32, 2048 × 16000 × 4 bytes, while the activations of a forward were alive."""
    trace = recorded("oom", tmp_path)
    (event,) = (event for event in trace.events if event.action is Action.OUT_OF_MEMORY)
    op = trace.ops[event.op]
    assert (event.size, op.name, op.source) == (4 * LOGITS, "aten._log_softmax.default", "accuracy/snapshots.py:79")
    assert Category.ACTIVATION in {row.category for row in categories(trace) if row.bytes > 300 * MIB}


def test_of_a_snapshot_without_events_what_is_held(tmp_path: Path) -> None:
    """cuBLAS's workspaces of the forward's thread: 32 MiB, and one of cuBLASLt."""
    trace = recorded("state", tmp_path)
    assert {(row.op, row.bytes) for row in consumers(trace) if row.category is Category.WORKSPACE} == {
        ("linear", 2**25 + 2**20)
    }


# ---- made by hand


def entry(action: str, address: int, size: int, frames: Frames | None = None, **more: Any) -> dict[str, Any]:
    return {"action": action, "addr": address, "size": size, "stream": 0, "frames": frames or [], **more}


def test_what_was_there_before_is_told_apart_by_the_sizes_of_gradients(tmp_path: Path) -> None:
    """Recording begins at a step. Nine buffers are there: of 3 and of 5 KiB three each, of which a gradient comes; and
    three of 7 KiB, of which none does."""
    sizes = [3072, 5120, 7168] * 3
    blocks, at = [], 0
    for size in sizes:
        blocks.append({"address": at, "size": size, "requested_size": size, "state": "active_allocated"})
        at += size
    blocks.append({"address": at, "size": 2 * MIB - at, "requested_size": 0, "state": "inactive"})
    here = python((f"{TORCH}/nn/modules/module.py", "_call_impl", 1), ("/me/t.py", "f", 2))
    update = python((f"{TORCH}/optim/adam.py", "step", 1), ("/me/t.py", "f", 3))
    entries = [
        entry("alloc", at, 1024, here),
        entry("alloc", at + 1024, 3072), entry("alloc", at + 4096, 5120),
        entry("free_requested", at, 1024), entry("free_completed", at, 1024),
        entry("alloc", at, 512, update), entry("free_requested", at, 512), entry("free_completed", at, 512),
        *(entry(f"free_{how}", at + 1024, 3072) for how in ("requested", "completed")),
        *(entry(f"free_{how}", at + 4096, 5120) for how in ("requested", "completed")),
    ]  # fmt: skip
    segment = {"address": 0, "total_size": 2 * MIB, "device": 0, "stream": 0, "blocks": blocks}
    trace = written(tmp_path, {"segments": [segment], "device_traces": [entries]})
    assert Counter((buffer.category.name, buffer.size) for buffer in trace.buffers[4:]) == {
        ("PARAMETER", 3072): 1, ("OPTIMIZER", 3072): 2, ("PARAMETER", 5120): 1, ("OPTIMIZER", 5120): 2,
        ("UNKNOWN", 7168): 3,
    }  # fmt: skip
    assert [b.category.name for b in trace.buffers[:4]] == ["ACTIVATION", "GRADIENT", "GRADIENT", "TEMPORARY"]
    assert [phase.name for phase in trace.phases] == ["before", "forward", "backward", "optimizer"]


def test_gradients_of_the_step_before_are_let_go_of_in_the_window(tmp_path: Path) -> None:
    """`zero_grad` stands before the backward: of 3 KiB there are a parameter, its state, and the gradient before, which
    dies first; of 7 KiB, of which no gradient comes, nobody knows."""
    sizes = [3072, 3072, 3072, 3072, 7168]
    at = sum(sizes)
    here = python((f"{TORCH}/nn/modules/module.py", "_call_impl", 1), ("/me/t.py", "f", 2))
    update = python((f"{TORCH}/optim/adam.py", "step", 1), ("/me/t.py", "f", 3))
    died = [(9216, 3072), (12288, 7168)]
    blocks = [
        {"address": 3072 * n, "size": 3072, "requested_size": 3072, "state": "active_allocated"} for n in range(3)
    ]
    blocks += [
        {"address": 9216, "size": at - 9216, "requested_size": 0, "state": "inactive"},
        {"address": at, "size": 3072, "requested_size": 3072, "state": "active_allocated"},
        {"address": at + 3072, "size": 2 * MIB - at - 3072, "requested_size": 0, "state": "inactive"},
    ]
    entries = [
        entry("alloc", at + 3072, 1024, here),
        *(entry(f"free_{how}", *one) for one in died for how in ("requested", "completed")),
        entry("alloc", at, 3072), entry("free_requested", at + 3072, 1024), entry("free_completed", at + 3072, 1024),
        entry("alloc", at + 3072, 512, update), entry("free_requested", at + 3072, 512),
        entry("free_completed", at + 3072, 512),
    ]  # fmt: skip
    segment = {"address": 0, "total_size": 2 * MIB, "device": 0, "stream": 0, "blocks": blocks}
    trace = written(tmp_path, {"segments": [segment], "device_traces": [entries]})
    assert Counter((buffer.category.name, buffer.size) for buffer in trace.buffers[3:]) == {
        ("PARAMETER", 3072): 1, ("OPTIMIZER", 3072): 2, ("GRADIENT", 3072): 1, ("UNKNOWN", 7168): 1,
    }  # fmt: skip


def test_a_block_is_as_large_as_the_file_has_it(tmp_path: Path) -> None:
    """19.5 MiB of a segment of 20: the block is the segment. And 19 MiB, dead by the end, at the same place."""
    size, other = 39 * MIB // 2, 19 * MIB
    block = {"address": 0, "size": 20 * MIB, "requested_size": size, "state": "active_allocated", "frames": []}
    segment = {"address": 0, "total_size": 20 * MIB, "device": 0, "stream": 0, "blocks": [block]}
    entries = [entry("segment_alloc", 0, 20 * MIB), entry("alloc", 0, other), entry("free_requested", 0, other),
               entry("free_completed", 0, other), entry("alloc", 0, size)]  # fmt: skip
    trace = written(tmp_path, {"segments": [segment], "device_traces": [entries]})
    assert trace.peak[:3] == (size, 20 * MIB, 20 * MIB)
    assert [event.size for event in trace.events] == [20 * MIB] * 4


def test_pieces_of_an_expandable_segment(tmp_path: Path) -> None:
    """Two pieces of 20 MiB were there, a third comes; 50 MiB lie across all of them."""
    blocks = [{"address": 0, "size": 50 * MIB, "requested_size": 50 * MIB, "state": "active_allocated"},
              {"address": 50 * MIB, "size": 10 * MIB, "requested_size": 0, "state": "inactive"}]  # fmt: skip
    segment = {"address": 0, "total_size": 60 * MIB, "device": 0, "stream": 0, "blocks": blocks, "is_expandable": True}
    entries = [entry("segment_map", 40 * MIB, 20 * MIB), entry("alloc", 0, 50 * MIB)]
    trace = written(tmp_path, {"segments": [segment], "device_traces": [entries]})
    assert [(event.action.name, event.address, event.size) for event in trace.events] == [
        ("SEGMENT_ALLOC", 0, 40 * MIB), ("SEGMENT_ALLOC", 40 * MIB, 20 * MIB), ("ALLOC", 0, 50 * MIB)
    ]  # fmt: skip
    assert trace.peak.reserved == 60 * MIB


OLD = {
    "device": 0, "address": 4096, "total_size": 2 * MIB, "allocated_size": 1536, "active_size": 1536, "stream": 0,
    "segment_type": "small",
    "blocks": [
        {"size": 1024, "state": "inactive"},
        {"size": 1536, "state": "active_allocated",
         "history": [{"addr": 5120, "real_size": 1100, "frames": python(("/me/train.py", "make", 7))}]},
        {"size": 2 * MIB - 2560, "state": "inactive"},
    ],
}  # fmt: skip
"""As torch 2.0 writes a segment: blocks have no addresses, and a history instead of frames."""


@pytest.mark.parametrize("data", [{"segments": [OLD], "device_traces": []}, {"segments": [OLD]}, [OLD]])
def test_without_a_history_there_is_what_is_held(data: Any, tmp_path: Path) -> None:
    """A snapshot of torch 2.0, and the list of `torch.cuda.memory_snapshot()`."""
    if isinstance(data, dict):
        data = {"device_traces": [], **data}
    trace = written(tmp_path, data)
    assert trace.peak[:3] == (1100, 1536, 2 * MIB)
    (row,) = consumers(trace)
    assert row.provenance == "output of make, me/train.py:7"
    assert "what was held when the snapshot was written: the file has no history" in " ".join(
        table.report(trace, 3).split()
    )
    assert trace.events[1].address == 5120


def test_without_a_history_the_device_that_holds_most(tmp_path: Path) -> None:
    other = {**OLD, "device": 2, "total_size": 20 * MIB}
    trace = written(tmp_path, [OLD, other])
    assert trace.peak.reserved == 20 * MIB
    assert trace.assumptions == ("devices 0, 2 are in the snapshot; this is device 2",)


def test_what_a_failure_asked_for(tmp_path: Path) -> None:
    asked = python((f"{TORCH}/nn/functional.py", "cross_entropy", 1), ("/me/t.py", "f", 2))
    entries = [entry("segment_alloc", 0, 2 * MIB), entry("alloc", 0, 512, asked),
               entry("oom", 0, 3 * MIB, asked, device_free=MIB)]  # fmt: skip
    trace = written(tmp_path, {"segments": [], "device_traces": [entries]})
    last = trace.events[-1]
    assert (last.action, last.size) == (Action.OUT_OF_MEMORY, 3 * MIB)
    assert trace.ops[last.op][0] == "cross_entropy" and trace.ops[last.op].source == "me/t.py:2"


def test_settings_that_nobody_knows_are_said(tmp_path: Path) -> None:
    data = {"segments": [], "device_traces": [[]], "allocator_settings": {"PYTORCH_CUDA_ALLOC_CONF": "no_such:1"}}
    assert "were not understood" in written(tmp_path, data).assumptions[0]
