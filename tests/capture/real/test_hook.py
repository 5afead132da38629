"""The allocator hook, over a CUDA runtime that is none: a few functions that take memory from the host."""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import signal
import struct
import subprocess
import sys
import textwrap
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from memgraph.capture.real import hook
from memgraph.errors import TraceError
from memgraph.files import hook_log
from memgraph.files.any_file import load
from memgraph.trace import Action, Phase, Trace


class Driven:
    """The hook's functions, as PyTorch calls them."""

    def __init__(self, library: ctypes.CDLL, log: Path) -> None:
        self.log, self._library = log, library
        self._live: dict[int, tuple[int, int]] = {}
        library.memgraph_hook_malloc.argtypes = [ctypes.c_ssize_t, ctypes.c_int, ctypes.c_void_p]
        library.memgraph_hook_malloc.restype = ctypes.c_void_p
        library.memgraph_hook_free.argtypes = [ctypes.c_void_p, ctypes.c_ssize_t, ctypes.c_int, ctypes.c_void_p]
        library.memgraph_hook_free.restype = None

    def malloc(self, size: int, stream: int = 0) -> int:
        address = int(self._library.memgraph_hook_malloc(size, 0, stream) or 0)
        self._live[address] = size, stream
        return address

    def free(self, address: int, size: int, stream: int = 0) -> None:
        del self._live[address]
        self._library.memgraph_hook_free(address, size, 0, stream)

    def free_all(self) -> None:
        for address, (size, stream) in list(self._live.items()):
            if address:
                self.free(address, size, stream)

    def say(self, **line: object) -> None:
        with self.log.open("ab") as file:
            file.write(json.dumps(line).encode() + b"\n")

    def mark(self, number: int) -> None:
        self._library.memgraph_hook_mark(number)

    def read(self) -> hook_log.Log:
        return hook_log.read(self.log)

    def records(self) -> list[hook_log.Record]:
        return list(self.read().records())

    def trace(self) -> Trace:
        """Its conservation laws checked."""
        return hook_log.load(self.log)


Open = Callable[..., Driven]


@pytest.fixture
def opened(runtime: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Open]:
    """`opened(limit=…, records=…)`: the hook with an empty log. Blocks of the tests before may be handed out again."""
    monkeypatch.setattr(hook, "_cudart", lambda: str(runtime).encode())
    made: list[Driven] = []

    def open_it(**more: int) -> Driven:
        log = tmp_path / "log"
        made.append(Driven(hook.open_log(log, **more), log))  # type: ignore[arg-type]
        return made[-1]

    yield open_it
    for driven in made:
        driven.free_all()
    hook.library().memgraph_hook_close()


def test_requests_are_logged_as_they_came(opened: Open) -> None:
    driven = opened()
    first, second = driven.malloc(1000), driven.malloc(3)
    driven.mark(7)
    driven.free(first, 1000)
    third = driven.malloc(700, stream=5)
    records = driven.records()
    assert [(record.kind, record.size, record.stream) for record in records] == [
        (1, 1000, 0), (1, 3, 0), (3, 0, 0), (2, 1000, 0), (1, 700, 5),
    ]  # fmt: skip
    assert [record.address for record in records] == [first, second, 7, first, third]
    times = [record.time for record in records]
    assert times == sorted(times) and driven.read().dropped == 0
    assert driven.malloc(0) == 0 and len(driven.records()) == 5  # an empty tensor has no block


def test_a_freed_block_serves_its_size_and_stream_again(opened: Open) -> None:
    driven = opened()
    first = driven.malloc(100_000)
    driven.free(first, 100_000)
    assert driven.malloc(100_000, stream=9) != first  # work of the other stream may still use it
    assert driven.malloc(99_900) == first  # the same 512 bytes


def test_bytes_requested_and_their_peak(opened: Open) -> None:
    driven = opened()
    library = hook.library()
    start = library.memgraph_hook_requested()
    a, b = driven.malloc(10**6), driven.malloc(2 * 10**6)
    driven.free(a, 10**6)
    assert library.memgraph_hook_requested() - start == 2 * 10**6
    assert library.memgraph_hook_peak() >= start + 3 * 10**6
    driven.free(b, 2 * 10**6)


def test_a_full_ring_drops_the_oldest_and_counts_them(opened: Open) -> None:
    driven = opened(records=10)
    for size in range(1, 26):
        driven.mark(size)
    log = driven.read()
    assert log.dropped == 15
    assert [record.address for record in driven.records()] == list(range(16, 26))


def test_many_threads(opened: Open) -> None:
    """Nothing is lost, and each allocation is freed once."""
    driven = opened()

    def work(seed: int) -> None:
        for round_ in range(500):
            size = 512 * (1 + (seed * 31 + round_) % 7)
            driven.free(driven.malloc(size, seed % 2), size, seed % 2)

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    records = driven.records()
    assert len(records) == 2 * 8 * 500
    live: set[int] = set()
    for record in records:
        if record.kind == 1:
            assert record.address not in live
            live.add(record.address)
        else:
            live.remove(record.address)
    assert not live


CHILD = """
import ctypes, os, sys
from pathlib import Path
import torch
from memgraph.capture.real import hook
hook._cudart = lambda: sys.argv[1].encode()
library = hook.open_log(Path(sys.argv[2]), int(sys.argv[3]))
library.memgraph_hook_malloc.argtypes = [ctypes.c_ssize_t, ctypes.c_int, ctypes.c_void_p]
library.memgraph_hook_malloc.restype = ctypes.c_void_p
for size in range(1, 101):
    library.memgraph_hook_malloc(size, 0, None)
"""


def child(runtime: Path, log: Path, limit: int, more: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", CHILD + textwrap.dedent(more), str(runtime), str(log), str(limit)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


@pytest.mark.parametrize(("end", "code"), [("SIGKILL", -signal.SIGKILL), ("SIGSEGV", -signal.SIGSEGV)])
def test_a_crash_loses_nothing(runtime: Path, tmp_path: Path, end: str, code: int) -> None:
    done = child(runtime, tmp_path / "log", 0, f"import signal; os.kill(os.getpid(), signal.{end})")
    assert done.returncode == code
    assert [record.size for record in hook_log.read(tmp_path / "log").records()] == list(range(1, 101))


def test_beyond_the_limit_torch_is_told_in_its_own_way(runtime: Path, tmp_path: Path) -> None:
    """c10::OutOfMemoryError goes through C code up to whoever catches it; here nobody does, and C++ ends the process
    naming it. 1 + 2 + … + 100 = 5050 bytes are there when the next 1,000 do not fit below 6,000."""
    done = child(runtime, tmp_path / "log", 6_000, "library.memgraph_hook_malloc(1000, 0, None)")
    assert done.returncode == -signal.SIGABRT
    assert "c10::OutOfMemoryError" in done.stderr and "CUDA out of memory. Tried to allocate" in done.stderr
    last = list(hook_log.read(tmp_path / "log").records())[-1]
    assert (last.kind, last.size) == (4, 1000)


def test_a_full_card_gets_idle_blocks_back_first(runtime: Path, tmp_path: Path) -> None:
    """Room for 1 MiB: half of it idle, in another size than the one that is asked for."""
    more = """
        runtime = ctypes.CDLL(sys.argv[1])
        runtime.test_room.argtypes = [ctypes.c_long]
        runtime.test_room(1 << 20)
        library.memgraph_hook_free.argtypes = [ctypes.c_void_p, ctypes.c_ssize_t, ctypes.c_int, ctypes.c_void_p]
        library.memgraph_hook_free(library.memgraph_hook_malloc(512 << 10, 0, None), 512 << 10, 0, None)
        print(bool(library.memgraph_hook_malloc(700 << 10, 0, None)))
    """
    done = child(runtime, tmp_path / "log", 0, more)
    assert done.stdout == "True\n", done.stderr


def test_a_log_becomes_a_trace(opened: Open) -> None:
    """1,000 and 500 are there at once: the peak. The hook's blocks are as large as the requests."""
    driven = opened()
    driven.say(gpu="NVIDIA H200", memory=2**30, device=0, torch="2.11.0", settings={"batch": 8})
    driven.say(phase="load", step=0)
    driven.say(phase="input", step=1)
    driven.say(op="aten.mm.default", module="blocks.0", source="train.py:9")
    driven.mark(1)
    first = driven.malloc(1000)
    driven.mark(2)
    driven.mark(3)
    second = driven.malloc(500)
    driven.free(first, 1000)
    driven.free(second, 500)
    trace = driven.trace()
    assert (trace.gpu, trace.memory, trace.torch) == ("NVIDIA H200", 2**30, "2.11.0")
    assert trace.settings == {"batch": 8, "via": "hook"}
    assert [(buffer.size, buffer.op) for buffer in trace.buffers] == [(1000, -1), (500, 0)]
    assert trace.peak[:3] == (1500, 1500, 1500) and trace.assumptions == ()
    (op,) = trace.ops
    assert (op.name, op.phase, op.module, op.source) == ("aten.mm.default", 1, "blocks.0", "train.py:9")
    # The load has a segment and an allocation; then come a segment for the 500, they, and two frees.
    assert trace.phases == (Phase("load", 0, 0, 2), Phase("input", 1, 2, 6))
    assert trace.events[2].action is Action.SEGMENT_ALLOC
    assert trace.live_at(len(trace.events) - 1) == ()


def test_a_full_ring_still_makes_a_trace(opened: Open) -> None:
    """Of six events the last four are left: 700 die that nobody saw come, and 300 stay that nobody saw at all. At the
    start of what is left they were there, so the peak is 300 + 700 + 50; before, 40 more had been."""
    driven = opened(records=4)
    driven.say(gpu="NVIDIA H200", memory=2**30, device=0, torch="2.11.0")
    driven.malloc(300)
    dies, early = driven.malloc(700), driven.malloc(90)
    driven.free(early, 90)
    new = driven.malloc(50)
    driven.free(dies, 700)
    driven.free(new, 50)
    driven.malloc(20)
    trace = driven.trace()
    assert [buffer.size for buffer in trace.buffers] == [700, 300, 50, 20]
    assert trace.peak.requested == 1050
    assert trace.usage_at(len(trace.events) - 1).requested == 320
    (note,) = trace.assumptions
    assert note.startswith("4 of the oldest events") and note.endswith(" 1,090 bytes were requested at most")


def test_a_full_ring_knows_its_phases(opened: Open) -> None:
    """The first mark that is left says `forward`; what comes before it belongs to the phase that was said before."""
    driven = opened(records=5)
    driven.say(device=0)
    for name in ("load", "input", "forward", "backward"):
        driven.say(phase=name, step=int(name != "load"))
    for number in (1, 2):
        driven.mark(number)
        driven.malloc(512)
    driven.malloc(100)
    driven.mark(3)
    driven.malloc(200)
    driven.mark(4)
    driven.malloc(300)
    trace = driven.trace()
    assert [(phase.name, phase.stop - phase.start) for phase in trace.phases] == [
        ("before", 2), ("input", 2), ("forward", 2), ("backward", 2),
    ]  # fmt: skip
    assert [buffer.size for buffer in trace.buffers] == [512 + 512, 100, 200, 300]


@settings(max_examples=60, deadline=None)
@given(choices=st.lists(st.one_of(st.integers(1, 4000), st.integers(-9, -1)), max_size=60), records=st.integers(1, 40))
def test_whatever_was_dropped_the_bytes_are_right(runtime: Path, choices: list[int], records: int) -> None:
    """What is left of a log ends with as many bytes as there are, and never says more than the peak."""
    import tempfile

    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        patch.setattr(hook, "_cudart", lambda: str(runtime).encode())
        driven = Driven(hook.open_log(Path(folder) / "log", records=records), Path(folder) / "log")
        live: list[tuple[int, int]] = []
        for choice in choices:
            if choice > 0:
                live.append((driven.malloc(choice), choice))
            elif live:
                driven.free(*live.pop(choice % len(live)))
        trace, log = driven.trace(), driven.read()
        driven.free_all()
        hook.library().memgraph_hook_close()
    assert (trace.usage[0][-1] if trace.events else 0) == sum(size for _, size in live) == log.requested
    assert trace.peak.requested <= log.peak
    assert bool(trace.assumptions) == (log.dropped > 0)


def test_a_second_recording_begins_with_what_is_there(opened: Open) -> None:
    driven = opened()
    driven.malloc(1000)
    later = opened()
    later.malloc(24)
    assert [buffer.size for buffer in later.trace().buffers] == [1000, 24]
    assert later.read().peak == 1024


def test_a_log_that_is_made_anew_does_not_pull_the_file_from_under_the_threads(opened: Open) -> None:
    """They go on all the time; a file that were cut short would end the process with SIGBUS."""
    driven = opened(records=1000)
    stop = threading.Event()

    def work() -> None:
        while not stop.is_set():
            driven.free(driven.malloc(700), 700)
            driven.mark(1)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for _ in range(30):
        opened(records=1000)
    stop.set()
    for thread in threads:
        thread.join()
    driven.trace()


def test_after_a_recording_there_is_no_limit(opened: Open) -> None:
    driven = opened(limit=1000)
    hook.library().memgraph_hook_close()
    assert driven.malloc(5000)
    assert driven.records() == []


def test_a_log_is_read_wherever_a_trace_is(opened: Open) -> None:
    driven = opened()
    driven.malloc(1000)
    assert load(driven.log).peak.requested == 1000


@given(st.binary(max_size=400), st.integers(0, 300), st.integers(0, 6))
def test_a_damaged_log_is_one_clear_error_or_read(content: bytes, cut: int, written: int) -> None:
    import tempfile

    numbers = (2, 4, written, 0, 0, 0, 0)
    good = b"memghook" + b"".join(number.to_bytes(8, "little") for number in numbers)
    with tempfile.TemporaryDirectory() as folder:
        for data in (content, (good + content)[: cut + len(good) // 2], good + (content * 4)[: 4 * 48] + content):
            path = Path(folder) / "log"
            path.write_bytes(data)
            with contextlib.suppress(TraceError):
                hook_log.load(path)


@settings(max_examples=200, deadline=None)
@given(place=st.integers(0, 64 + 6 * 48 + 120), noise=st.binary(min_size=1, max_size=12), cut=st.integers(0, 500))
def test_a_log_with_noise_in_it_is_an_error_or_a_trace(place: int, noise: bytes, cut: int) -> None:
    """Six records, two lines."""
    import tempfile

    records = [(512, 100, 1), (1024, 50, 1), (1, 0, 3), (512, 100, 2), (2048, 7, 1), (0, 9, 4)]
    body = b"".join(
        struct.pack("<QqQQiIQ", address, size, 0, number, 0, kind, number + 1)
        for number, (address, size, kind) in enumerate(records)
    )
    good = struct.pack("<8sQQQqqq8x", b"memghook", 2, 6, 6, 0, 57, 150) + body
    good += b'{"gpu": "NVIDIA H200", "memory": 1000, "device": 0, "torch": "2.11.0"}\n{"phase": "load", "step": 0}\n'
    damaged = (good[:place] + noise + good[place + len(noise) :])[: len(good) - cut if cut < 100 else None]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "log"
        path.write_bytes(damaged)
        with contextlib.suppress(TraceError):
            load(path).self_check()


@pytest.mark.skipif(torch.version.cuda is not None, reason="a CUDA build brings the runtime along")
def test_without_a_runtime_it_says_so(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", "import sys\nfrom pathlib import Path\nfrom memgraph.capture.real import hook\n"
         "try: hook.open_log(Path(sys.argv[1]))\nexcept Exception as error: print(type(error).__name__, error)",
         str(tmp_path / "log")],
        capture_output=True, text=True, check=True, env={**os.environ},
    )  # fmt: skip
    assert done.stdout == "MemgraphError the allocator hook cannot be used: there is no CUDA runtime\n"
