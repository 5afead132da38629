"""Trace files: what is saved is what is loaded, and whatever else lies there gives one line and no other exception."""

from __future__ import annotations

import copy
import gzip
import json
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import memgraph
from memgraph.errors import TraceError
from memgraph.render import json as render_json
from memgraph.render import table
from memgraph.trace import SCHEMA, Category, Role, TensorSpec, Trace, trace_file
from tests import DATA
from tests.conftest import Tape

slow = settings(deadline=None, max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])


def unpack(path: Path) -> dict[str, Any]:
    data: dict[str, Any] = json.loads(gzip.decompress(path.read_bytes()))
    return data


def pack(path: Path, data: object) -> Path:
    path.write_bytes(gzip.compress(json.dumps(data).encode()))
    return path


def the_error(path: Path) -> str:
    """What loading says; it is one line, names the file (or how a far too long name begins), and is no novel."""
    with pytest.raises(TraceError) as caught:
        memgraph.load(path)
    text = str(caught.value)
    assert text.count("\n") == 0 and str(path)[:120] in text and len(text) < len(str(path)) + 200
    return text


# ---- round trip


def test_what_is_saved_is_loaded(toy: Trace, saved: Path) -> None:
    assert memgraph.load(saved) == toy


def test_every_field_comes_back(tape: Tape, tmp_path: Path) -> None:
    spec = TensorSpec((8, 512), "bfloat16")
    tape.phase("forward", 3)
    tape.op("aten.mm.default", "decoder.head", "größe.py:1")
    tape.ops[0] = tape.ops[0]._replace(inputs=(spec, TensorSpec((), "int64")), outputs=(spec,))
    tape.segment(2**40)
    tape.alloc(2**39, Category.WORKSPACE, "\udc80", Role.LIBRARY, shape=(2**38,), dtype="float16")
    tape.out_of_memory(2**62)
    trace = tape.trace(
        origin="measured", gpu="NVIDIA H200", memory=2**37, torch="2.11.0", assumptions=("one", "two"),
        unknown_ops=("aten.foo.default",), settings={"set": {"a": "1"}, "clip": 0.5, "seq": None, "note": ["x", True]},
    )  # fmt: skip
    trace.save(tmp_path / "t")
    back = memgraph.load(tmp_path / "t")
    assert back == trace
    assert {type(action) for action, *_ in back.events} == {type(action) for action, *_ in trace.events}
    assert type(back.buffers[0].role) is Role and type(back.buffers[0].category) is Category
    assert type(back.ops[0].inputs[0].shape) is tuple
    assert [column.typecode for column in back.events.columns] == ["b", "q", "q", "q", "q"]


texts = st.text(max_size=12)
specs = st.tuples(st.lists(st.integers(0, 2**40), max_size=3).map(tuple), texts).map(lambda pair: TensorSpec(*pair))
plain = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | texts,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3),
    max_leaves=6,
)


@st.composite
def traces(draw: st.DrawFn) -> Trace:
    """Any lawful trace."""
    tape, alive = Tape(), []
    for step in range(draw(st.integers(1, 3))):
        tape.phase(draw(texts), step)
        if draw(st.booleans()):
            tape.op(draw(texts), draw(texts), draw(texts), draw(st.integers(-1, len(tape.ops))))
            given_specs = draw(st.lists(specs, max_size=2).map(tuple))
            tape.ops[-1] = tape.ops[-1]._replace(inputs=given_specs, outputs=given_specs[:1])
        tape.segment(2**32)
        for _ in range(draw(st.integers(0, 4))):
            shape, dtype = draw(specs)
            category, role = draw(st.sampled_from(Category)), draw(st.sampled_from(Role))
            alive.append(tape.alloc(draw(st.integers(0, 2**20)), category, draw(texts), role, shape=shape, dtype=dtype))
        while alive and draw(st.booleans()):
            tape.free(alive.pop())
    return tape.trace(
        origin=draw(st.sampled_from(["predicted", "measured"])), gpu=draw(texts), memory=draw(st.integers(0, 2**60)),
        settings=draw(st.dictionaries(texts, plain, max_size=4)), torch=draw(texts),
        assumptions=tuple(draw(st.lists(texts, max_size=2))), unknown_ops=tuple(draw(st.lists(texts, max_size=2))),
    )  # fmt: skip


@slow
@given(traces())
def test_any_trace_comes_back(trace: Trace) -> None:
    trace.self_check()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "t"
        trace.save(path)
        back = memgraph.load(path)
        assert back == trace
        back.save(path.with_name("again"))
        assert path.read_bytes() == path.with_name("again").read_bytes()  # equal traces give equal bytes


# ---- what is not a trace


def test_a_file_from_before_streams_is_read() -> None:
    """Two steps of a linear layer, written by memgraph when its schema was 1."""
    path = DATA / "schema_1.memgraph"
    assert unpack(path)["schema"] == 1 and len(unpack(path)["buffers"]) == 6
    trace = memgraph.load(path)
    assert trace.peak[:4] == (20_251_400, 20_253_184, 25_165_824, 48) and trace.peak.active == trace.peak.allocated
    assert {buffer.stream for buffer in trace.buffers} == {0} and not trace.waits and trace.schema == SCHEMA == 2


def test_streams_and_what_waits_for_them_come_back(tape: Tape, tmp_path: Path) -> None:
    tape.phase("run", 0)
    tape.segment(2**21)
    tape.alloc(1000, Category.ACTIVATION, stream=2)
    tape.alloc(1000, Category.ACTIVATION)
    tape.wait(0)
    tape.complete(0)
    trace = tape.trace()
    trace.save(tmp_path / "run.memgraph")
    assert memgraph.load(tmp_path / "run.memgraph") == trace
    assert unpack(tmp_path / "run.memgraph")["buffers"][6] == [2, 0]


def test_one_stream_takes_no_room(saved: Path) -> None:
    assert len(unpack(saved)["buffers"]) == 6


def test_a_newer_schema_is_refused(saved: Path) -> None:
    pack(saved, unpack(saved) | {"schema": SCHEMA + 1})
    assert the_error(saved).endswith(
        f"written by a newer memgraph (schema {SCHEMA + 1}, this one reads {SCHEMA}): update memgraph"
    )


def test_a_newer_schema_is_refused_before_its_content_is_judged(tmp_path: Path) -> None:
    assert "update memgraph" in the_error(pack(tmp_path / "t", {"schema": 99, "shape": "unheard of"}))


@pytest.mark.parametrize("schema", [0, -1, True, "1", 1.0, None, [1]])
def test_a_schema_is_a_number_from_one_on(saved: Path, schema: object) -> None:
    pack(saved, unpack(saved) | {"schema": schema})
    assert "its schema is not a number from 1 on" in the_error(saved)


NOT_TRACES = {
    "empty": (b"", "is not a memgraph trace"),
    "text": (b"hello", "is not a memgraph trace, or damaged: Not a gzipped file"),
    "more text": (b"hello", "`memgraph analyze -o FILE` writes one"),
    "a pickle": (b"\x80\x04]K\x07a.", "is not a snapshot of PyTorch"),
    "gzip of nothing": (gzip.compress(b""), "is not a memgraph trace"),
    "gzip of text": (gzip.compress(b"hello"), "is not a memgraph trace"),
    "gzip of bytes": (gzip.compress(b"\xff\xfe\x00\xd8"), "is not a memgraph trace"),
    "a list": (gzip.compress(b"[1]"), "it holds a list"),
    "a number": (gzip.compress(b"1"), "it holds a int"),
    "an empty object": (gzip.compress(b"{}"), "KeyError 'schema'"),
    "deep": (gzip.compress(b"[" * 10**6), "is not a memgraph trace"),
    "a huge number": (gzip.compress(b"9" * 10**6), "is not a memgraph trace"),
    "trailing garbage": (gzip.compress(b"{}") + b"x", "is not a memgraph trace, or damaged"),
    "gzip's first bytes": (b"\x1f\x8b", "is cut short or damaged"),
}


@pytest.mark.parametrize("name", NOT_TRACES)
def test_what_is_no_trace_gives_one_line(tmp_path: Path, name: str) -> None:
    content, message = NOT_TRACES[name]
    path = tmp_path / "t"
    path.write_bytes(content)
    assert message in the_error(path)


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    assert the_error(tmp_path / "t").endswith("No such file or directory")
    assert the_error(tmp_path).endswith("Is a directory")
    assert the_error(tmp_path / ("x" * 300)).endswith("File name too long")


def test_every_cut_is_noticed(saved: Path) -> None:
    whole = saved.read_bytes()
    for length in range(len(whole)):
        saved.write_bytes(whole[:length])
        the_error(saved)


def test_a_bomb_is_not_unpacked(saved: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A thousand members of a MiB each in a MiB of file: reading stops at the limit."""
    monkeypatch.setattr(trace_file, "_LARGEST", 2**21)
    read = 0
    real = gzip.GzipFile.read

    def counted(self: gzip.GzipFile, size: int | None = -1) -> bytes:
        nonlocal read
        chunk = real(self, size)
        read += len(chunk)
        return chunk

    monkeypatch.setattr(gzip.GzipFile, "read", counted)
    saved.write_bytes(gzip.compress(b" " * 2**20) * 1000)
    assert the_error(saved).endswith("it unpacks to more than 2,097,152 bytes")
    assert read <= 2**21 + 2**20


def test_the_limit_is_far_above_a_long_run() -> None:
    """A trace takes about 80 bytes of text an event; nanoVLM's step has 12,000 events."""
    assert trace_file._LARGEST / 80 / 12_000 > 1000


def test_something_endless_is_no_trace() -> None:
    assert "/dev/zero is not a plain file" in the_error(Path("/dev/zero"))


WRONG: dict[str, Callable[[dict[str, Any]], object]] = {
    "no ops": lambda data: data.pop("ops"),
    "ops of unequal length": lambda data: data["ops"][0].append(0),
    "events of unequal length": lambda data: data["events"][0].pop(),
    "four columns of events": lambda data: data["events"].pop(),
    "a size that is a text": lambda data: data["buffers"][0].__setitem__(0, "1000"),
    "a size that is a fraction": lambda data: data["buffers"][0].__setitem__(0, 1000.5),
    "a negative size": lambda data: data["buffers"][0].__setitem__(0, -1),
    "a size of 65 bits": lambda data: data["buffers"][0].__setitem__(0, 2**64),
    "a size of 64 bits": lambda data: data["buffers"][0].__setitem__(0, 2**63),
    "an address of 65 bits": lambda data: data["events"][3].__setitem__(0, 2**64),
    "a text that is not in the table": lambda data: data["ops"][0].__setitem__(0, 999),
    "a place below zero": lambda data: data["ops"][0].__setitem__(0, -1),
    "a text that is none": lambda data: data["texts"].__setitem__(0, None),
    "a category that is not known": lambda data: data.update(texts=["?"] * len(data["texts"])),
    "a phase without a stop": lambda data: data["phases"][0].pop(),
    "a phase past the end": lambda data: data["phases"][-1].__setitem__(3, 99),
    "a tensor without a dtype": lambda data: data["tensors"].__setitem__(-1, [[[1]]]),
    "two tensors for a buffer": lambda data: data["tensors"].__setitem__(1, data["tensors"][1] * 2),
    "settings that are a list": lambda data: data.update(settings=[["a", 1]]),
    "settings that are none": lambda data: data.update(settings=None),
    "a memory that is none": lambda data: data.update(memory=None),
    "a gpu that is a number": lambda data: data.update(gpu=3090),
    "a very long wrong value": lambda data: data.update(gpu=list(range(10**5))),
    "assumptions that are numbers": lambda data: data.update(assumptions=[1]),
    "a broken law": lambda data: data["events"][4].__setitem__(1, 1),
}


@pytest.mark.parametrize("name", WRONG)
def test_wrong_content_gives_one_line(saved: Path, name: str) -> None:
    data = unpack(saved)
    WRONG[name](data)
    the_error(pack(saved, data))


def test_a_broken_law_is_named_with_the_file(saved: Path) -> None:
    data = unpack(saved)
    data["events"][4][1] = 1  # the block of a buffer of 1000 bytes
    assert the_error(pack(saved, data)) == (
        f"{saved}: event 1: not 0 <= 1000 requested <= 1 allocated <= 2097152 reserved"
    )


def load_or_refuse(path: Path) -> None:
    """A file is a trace that every report can be made of, or it is refused in one line."""
    try:
        trace = memgraph.load(path)
    except TraceError:
        the_error(path)
        return
    trace.self_check()
    json.dumps(render_json.report(trace, 8))
    for fancy in (True, False):
        text = table.report(trace, 8, fancy=fancy)
        assert max(map(len, text.splitlines())) <= 80
        assert all(sign.isprintable() or sign == "\n" for sign in text)


@slow
@given(st.data())
def test_flipped_bytes_are_refused(saved: Path, data: st.DataObject) -> None:
    """Of the packed file: gzip's own checksum is there for this. Its time stamp and the like do not matter."""
    content = bytearray(saved.read_bytes())
    for _ in range(data.draw(st.integers(1, 3))):
        content[data.draw(st.integers(0, len(content) - 1))] ^= data.draw(st.integers(1, 255))
    path = saved.with_name("flipped")
    path.write_bytes(content)
    load_or_refuse(path)


@slow
@given(st.data())
def test_flipped_letters_are_refused_or_make_a_lawful_trace(saved: Path, data: st.DataObject) -> None:
    """Of the text inside, under a right checksum."""
    content = bytearray(gzip.decompress(saved.read_bytes()))
    for _ in range(data.draw(st.integers(1, 3))):
        place = data.draw(st.integers(0, len(content) - 1))
        content[place : place + 1] = data.draw(st.sampled_from([b"0", b"9", b"-", b"]", b",", b'"', b"\\", b"e", b""]))
    path = saved.with_name("flipped")
    path.write_bytes(gzip.compress(bytes(content), 1))
    load_or_refuse(path)


@slow
@given(st.data())
def test_changed_values_are_refused_or_make_a_lawful_trace(saved: Path, data: st.DataObject) -> None:
    """Any value anywhere in the tree becomes any other, or goes."""
    content = unpack(saved)
    for _ in range(data.draw(st.integers(1, 2))):
        _mutate(content, data)
    load_or_refuse(pack(saved.with_name("changed"), content))


def _mutate(node: Any, data: st.DataObject) -> None:
    while True:
        if not node:
            return
        key = data.draw(st.sampled_from(list(node) if isinstance(node, dict) else range(len(node))))
        if not isinstance(node[key], dict | list) or data.draw(st.integers(0, 2)) == 0:
            break
        node = node[key]
    kind = data.draw(st.sampled_from(["change", "drop", "double"]))
    if kind == "drop":
        del node[key]
    elif kind == "double" and isinstance(node, list):
        node.insert(key, copy.deepcopy(node[key]))
    else:
        node[key] = data.draw(plain | st.integers(-2, 12) | st.sampled_from([2**63, -(2**63), "\x1b[31m", "\ud800"]))


@slow
@given(traces())
def test_every_lawful_trace_can_be_reported(trace: Trace) -> None:
    with tempfile.TemporaryDirectory() as folder:
        trace.save(Path(folder) / "t")
        load_or_refuse(Path(folder) / "t")
