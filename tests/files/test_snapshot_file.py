"""Snapshots of PyTorch as recordings, from files that nobody vouches for."""

from __future__ import annotations

import io
import pickle
import pickletools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import memgraph
from memgraph.errors import TraceError
from memgraph.files import plain_pickle
from memgraph.files.plain_pickle import PickleError
from memgraph.files.snapshot_file import load_snapshot, read
from memgraph.render.snapshot import pickled
from memgraph.trace import Trace
from tests import DATA
from tests.render.drawn import run

# ---- pickles of plain data

PLAIN = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**100), 2**100) | st.floats(allow_nan=False) | st.text() | st.binary(),
    lambda inner: (
        st.lists(inner, max_size=5)
        | st.dictionaries(st.text(max_size=9) | st.integers(), inner, max_size=5)
        | st.lists(inner, max_size=4).map(tuple)
    ),
    max_leaves=30,
)


@settings(max_examples=300, deadline=None)
@given(PLAIN, st.integers(0, 5))
def test_plain_data_comes_back_whatever_the_protocol(value: Any, protocol: int) -> None:
    """Bytes are written as a call before protocol 3."""
    text = pickle.dumps(value, protocol)
    calls = any(op.name in ("GLOBAL", "REDUCE") for op, _, _ in pickletools.genops(text))
    if calls:
        with pytest.raises(PickleError, match="will not be run"):
            plain_pickle.load(io.BytesIO(text))
    else:
        assert plain_pickle.load(io.BytesIO(text)) == value


def test_it_is_the_same_in_small_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    value = [{"name": "x" * 100, "n": list(range(300)), "f": (1.5, None, True, 2**40)}] * 3 + [{"y": {"z": [2**70]}}]
    text = pickle.dumps(value)
    for block in (1, 7, 64, 4096):
        monkeypatch.setattr(plain_pickle, "_BLOCK", block)
        assert plain_pickle.load(io.BytesIO(text)) == value


def test_what_is_taken_is_not_in_its_list() -> None:
    frames = [{"line": 1}]
    value = {"kept": [{"a": 1}], "gone": [*({"action": n, "frames": frames} for n in range(1001)), 3]}
    seen: list[Any] = []

    def take(_: Any, pairs: dict[Any, Any], forget: Callable[[Any, Any], None]) -> bool:
        if "action" in pairs:
            seen.append(pairs["frames"])
            if isinstance(pairs["frames"], list):
                forget(pairs["frames"], "the same")
        return "action" in pairs

    assert plain_pickle.load(io.BytesIO(pickle.dumps(value)), take) == {"kept": [{"a": 1}], "gone": [3]}
    assert seen == [*[frames] * 1000, "the same"]  # the pickler writes a thousand at once


class Evil:
    def __reduce__(self) -> tuple[Any, ...]:
        return exec, ("open('owned', 'w')",)


HOSTILE = {
    "a call": pickle.dumps({"device_traces": [Evil()]}),
    "an old call": b"cposix\nsystem\n(S'touch owned'\ntR.",
    "an instance": b"(S'touch owned'\niposix\nsystem\n.",
    "a call of protocol 4": b"\x80\x04\x8c\x05posix\x8c\x06system\x93\x8c\x0btouch owned\x85R.",
    "a persistent id": b"\x80\x02Pname\n.",
    "an extension": b"\x80\x02\x82\x01.",
    "a built object": b"\x80\x02}}b.",
}


@pytest.mark.parametrize("name", HOSTILE)
@pytest.mark.parametrize("magic", [b"", b"\x80\x04"])
def test_nothing_is_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, magic: bytes) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a.pickle").write_bytes(magic + HOSTILE[name])
    with pytest.raises(TraceError, match=r"will not be run|not a snapshot"):
        load_snapshot(tmp_path / "a.pickle")
    assert not (tmp_path / "owned").exists()


@pytest.mark.parametrize(
    "text",
    [
        b"\x80\x02Nr\xff\xff\xff\x7f.",  # remembers something at place two billion
        b"\x80\x04\x8d\xff\xff\xff\xff\xff\xff\xff\x0f.",  # a text of 2^60 bytes
        b"\x80\x04\x8b\xff\xff\xff\x7f.",  # a number of two billion bytes
        b"\x80\x04\x8e\xff\xff\xff\x7f\x00\x00\x00\x00.",
        b"\x80\x02" + b"(" * 10**6 + b"t" * 10**6 + b".",  # a tuple in a tuple in …
        b"\x80\x02}" + b")\x85" * 1 + b"\x85" * 10**6 + b"Ns.",  # … as a key
    ],
    ids=["place", "text", "number", "bytes", "deep", "deep key"],
)
def test_what_a_file_only_claims_costs_nothing(tmp_path: Path, text: bytes) -> None:
    """Python's own reader sets 32 GB aside for the first, and overflows its stack at the last."""
    path = tmp_path / "a.pickle"
    path.write_bytes(text)
    with pytest.raises(TraceError):
        load_snapshot(path)


# ---- snapshots


@settings(max_examples=150, deadline=None)
@given(data=st.data(), noise=st.binary(max_size=30), cut=st.booleans())
def test_a_damaged_snapshot_is_one_error_or_a_trace(data: st.DataObject, noise: bytes, cut: bool) -> None:
    import tempfile

    good = SMALL
    place = data.draw(st.integers(0, len(good)))
    damaged = good[:place] + noise + (b"" if cut else good[place + len(noise) :])
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "a.pickle"
        path.write_bytes(damaged)
        try:
            load_snapshot(path).self_check()
        except TraceError as error:
            assert "\n" not in str(error)  # noqa: PT017


def entry(action: str, address: int, size: int, frames: Any = ()) -> dict[str, Any]:
    return {"action": action, "addr": address, "size": size, "stream": 0, "time_us": 1, "frames": list(frames)}


def loaded(tmp_path: Path, entries: list[Any], protocol: int = 4, **more: Any) -> Trace:
    path = tmp_path / "a.pickle"
    path.write_bytes(pickle.dumps({"segments": [], "device_traces": [entries], **more}, protocol))
    return memgraph.load(path)


SMALL = pickle.dumps(
    {
        "segments": [],
        "device_traces": [
            [
                entry("segment_alloc", 2**40, 2**21),
                entry("alloc", 2**40, 1000, [{"filename": "/me/train.py", "name": "f", "line": 3}]),
                entry("alloc", 2**40 + 1024, 70000),
                entry("free_requested", 2**40, 1000),
                entry("free_completed", 2**40, 1000),
                entry("oom", 0, 2**30),
            ]
        ],
    }
)


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_any_protocol(tmp_path: Path, protocol: int) -> None:
    trace = loaded(tmp_path, pickle.loads(SMALL)["device_traces"][0], protocol)
    assert [buffer.size for buffer in trace.buffers] == [1000, 70000]
    assert trace.peak[:3] == (71000, 1024 + 70144, 2**21) and not trace.fits


def test_our_own_snapshot_is_the_run_it_was_made_of(tmp_path: Path) -> None:
    path = tmp_path / "a.pickle"
    path.write_bytes(pickled(run()))
    trace = memgraph.load(path)
    assert [buffer.size for buffer in trace.buffers] == [buffer.size for buffer in run().buffers]
    assert trace.peak.requested == run().peak.requested and trace.peak.reserved == run().peak.reserved
    assert {op.name for op in trace.ops} >= {"silu", "mm"}


def test_what_was_there_before_a_recording_began_is_counted(tmp_path: Path) -> None:
    """Recording begins with 3 KiB on the card, of which 1 KiB dies later: 3 + 2 KiB are the peak."""
    blocks = [
        {"address": 0x1000, "size": 2048, "requested_size": 2000, "state": "active_allocated"},
        {"address": 0x1800, "size": 1024, "requested_size": 0, "state": "inactive"},
        {"address": 0x2000, "size": 2048, "requested_size": 2048, "state": "active_allocated"},
    ]
    segment = {"address": 0x1000, "total_size": 2**21, "device": 0, "blocks": blocks}
    entries = [
        entry("alloc", 0x2000, 2048), entry("free_requested", 0x1800, 1024), entry("free_completed", 0x1800, 1024)
    ]  # fmt: skip
    trace = loaded(tmp_path, entries, segments=[segment])
    assert sorted(buffer.size for buffer in trace.buffers) == [1024, 2000, 2048]
    assert trace.peak[:3] == (1024 + 2000 + 2048, 1024 + 2048 + 2048, 2**21)
    (note,) = trace.assumptions
    assert note.startswith(
        "2 buffers were there before the recording began, and the file has no op or line of them: begin"
    )
    assert [phase.name for phase in trace.phases] == ["before", "recorded"]


def test_frames_say_where(tmp_path: Path) -> None:
    """The innermost line that is not torch's own, and the function of torch that it calls; a stack that comes again is
    the same op."""
    frames = [{"filename": "/x/torch/nn/functional.py", "name": "linear", "line": 9},
              {"filename": "/home/me/train.py", "name": "forward", "line": 12}]  # fmt: skip
    shared = entry("alloc", 512, 100, frames)
    again = {**shared, "addr": 1024}
    other = entry("alloc", 2048, 7, [*frames])
    trace = loaded(tmp_path, [entry("segment_alloc", 0, 2**21), shared, again, other])
    (op,) = trace.ops
    assert (op.name, op.source) == ("linear", "me/train.py:12")
    assert [buffer.op for buffer in trace.buffers] == [0, 0, 0]


def test_the_device_on_which_most_happened(tmp_path: Path) -> None:
    path = tmp_path / "a.pickle"
    one, two = [entry("segment_alloc", 0, 2**21), entry("alloc", 0, 5)], [entry("segment_alloc", 0, 2**21)]
    path.write_bytes(pickle.dumps({"segments": [], "device_traces": [[], two, one]}))
    assert memgraph.load(path).buffers[0].size == 5


def test_the_allocators_settings_are_kept(tmp_path: Path) -> None:
    conf = {"PYTORCH_CUDA_ALLOC_CONF": "max_split_size_mb:128"}
    assert loaded(tmp_path, [], allocator_settings=conf).settings["alloc_conf"] == "max_split_size_mb:128"
    assert "alloc_conf" not in loaded(tmp_path, []).settings


def test_a_snapshot_is_read_without_keeping_its_dictionaries(monkeypatch: pytest.MonkeyPatch) -> None:
    """When an entry is followed, at most the batch of it is in memory: the pickler writes a thousand at once."""
    import gc

    from memgraph.files import snapshot_file, snapshot_history

    entries = [entry("alloc", 512 * n, 100 + n, [{"filename": "/a.py", "name": "f", "line": n}]) for n in range(5000)]
    text = pickle.dumps({"device_traces": [[entry("segment_alloc", 0, 2**24), *entries]]})
    most = 0
    follow = snapshot_history.History.follow

    def counting(self: Any, taken: Any) -> None:
        nonlocal most
        follow(self, taken)
        if taken["size"] % 500 == 0:
            most = max(most, sum(type(one) is plain_pickle.Pairs and "action" in one for one in gc.get_objects()))

    monkeypatch.setattr(snapshot_history.History, "follow", counting)
    data = plain_pickle.load(io.BytesIO(text), snapshot_file._take, snapshot_file._history)
    assert len(data["device_traces"][0].taken) == 5001
    assert 0 < most <= 1001


TAKEN = sorted(DATA.glob("snapshot_*.pickle"))


@pytest.mark.parametrize("path", TAKEN, ids=lambda path: path.name)
def test_a_snapshot_that_pytorch_wrote(path: Path) -> None:
    """`benchmarks/accuracy/tiny.py` on an H200: the requests are those of its prediction, and the allocator model,
    given the segments, puts every block where PyTorch did."""
    from benchmarks.accuracy import tiny
    from memgraph.analyze.compare import compare

    measured = memgraph.load(path)
    measured.self_check()
    with memgraph.virtual_gpu("h200") as gpu:
        tiny.main()
    found = compare(gpu.trace, measured)
    assert found.matched == found.measured == found.predicted
    assert found.peaks[0].ratio == 1
    assert found.placed is not None and found.placed.same == found.placed.blocks
    assert {op.source.split(":")[0] for op in measured.ops} == {"benchmarks/tiny.py"}


# ---- streams


def entries(*rows: tuple[str, int, int, int]) -> list[dict[str, Any]]:
    return [dict(zip(("action", "addr", "size", "stream"), row, strict=True)) for row in rows]


def test_streams_are_numbered_as_they_come_and_blocks_wait_for_them() -> None:
    side, other = 0x7F0010, 0x7F0020
    told = entries(
        ("segment_alloc", 0, 2**21, other), ("alloc", 0, 1000, other), ("alloc", 1024, 1000, side),
        ("alloc", 2048, 1000, 0), ("free_requested", 0, 1000, other), ("alloc", 3072, 512, other),
        ("free_completed", 0, 1000, other), ("free_requested", 1024, 1000, side),
        ("free_completed", 1024, 1000, side), ("free_requested", 2048, 1000, 0),
    )  # fmt: skip
    history = read({"device_traces": [told]}, 0)
    assert [buffer.stream for buffer in history.buffers] == [1, 2, 0, 1]
    assert [(event.action.name, event.buffer) for event in history.events][4:] == [
        ("FREE_REQUESTED", 0), ("ALLOC", 3), ("FREE_COMPLETED", 0), ("FREE", 1), ("FREE_REQUESTED", 2)
    ]  # fmt: skip


def test_a_history_that_does_not_tell_when_a_free_was_asked_for() -> None:
    told = entries(("segment_alloc", 0, 2**21, 0), ("alloc", 0, 1000, 0), ("free_completed", 0, 1000, 0))
    history = read({"device_traces": [told]}, 0)
    assert [event.action.name for event in history.events] == ["SEGMENT_ALLOC", "ALLOC", "FREE"]
