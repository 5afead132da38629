"""The allocator hook, over a CUDA runtime that is none: a few functions that take memory from the host."""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import subprocess
import sys
import textwrap
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from memgraph.capture import hook, hook_log
from memgraph.errors import TraceError
from memgraph.trace import Action, Trace

RUNTIME = """
#include <stdlib.h>
static long room = 1L << 62, calls;
static long sizes[1 << 16]; static void *places[1 << 16];
int cudaMalloc(void **out, size_t size) {
    if ((long)size > room) return 2;
    room -= size; *out = aligned_alloc(512, size);
    places[calls] = *out; sizes[calls] = size; calls++; return 0;
}
int cudaFree(void *p) {
    for (long i = 0; i < calls; i++) if (places[i] == p) { room += sizes[i]; places[i] = 0; }
    free(p); return 0;
}
int cudaGetDevice(int *d) { *d = 0; return 0; }
int cudaSetDevice(int d) { return d; }
int cudaGetLastError(void) { return 0; }
void test_room(long bytes) { room = bytes; }
long test_calls(void) { return calls; }
"""


@pytest.fixture(scope="module")
def runtime(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Compiled with the real compiler."""
    folder = tmp_path_factory.mktemp("cudart")
    (folder / "runtime.c").write_text(RUNTIME)
    subprocess.run(["cc", "-shared", "-fPIC", "-o", folder / "libcudart.so", folder / "runtime.c"], check=True)
    return folder / "libcudart.so"


class Driven:
    """The hook's functions, as PyTorch calls them."""

    def __init__(self, library: ctypes.CDLL, log: Path) -> None:
        self.log, self._library = log, library
        library.memgraph_hook_malloc.argtypes = [ctypes.c_ssize_t, ctypes.c_int, ctypes.c_void_p]
        library.memgraph_hook_malloc.restype = ctypes.c_void_p
        library.memgraph_hook_free.argtypes = [ctypes.c_void_p, ctypes.c_ssize_t, ctypes.c_int, ctypes.c_void_p]
        library.memgraph_hook_free.restype = None

    def malloc(self, size: int, stream: int = 0) -> int:
        return int(self._library.memgraph_hook_malloc(size, 0, stream) or 0)

    def free(self, address: int, size: int, stream: int = 0) -> None:
        self._library.memgraph_hook_free(address, size, 0, stream)

    def mark(self, number: int) -> None:
        self._library.memgraph_hook_mark(number)

    def read(self) -> hook_log.Log:
        return hook_log.read(self.log)


Open = Callable[..., Driven]


@pytest.fixture
def opened(runtime: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Open:
    """`opened(limit=…, records=…)`: the hook with an empty log. Blocks of the tests before may be handed out again."""
    monkeypatch.setattr(hook, "_cudart", lambda: str(runtime).encode())

    def open_it(**more: int) -> Driven:
        log = tmp_path / "log"
        return Driven(hook.open_log(log, **more), log)  # type: ignore[arg-type]

    return open_it


def test_requests_are_logged_as_they_came(opened: Open) -> None:
    driven = opened()
    first, second = driven.malloc(1000), driven.malloc(3)
    driven.mark(7)
    driven.free(first, 1000)
    third = driven.malloc(700, stream=5)
    log = driven.read()
    assert [(record.kind, record.size, record.stream) for record in log.records] == [
        (1, 1000, 0), (1, 3, 0), (3, 0, 0), (2, 1000, 0), (1, 700, 5),
    ]  # fmt: skip
    assert [record.address for record in log.records] == [first, second, 7, first, third]
    times = [record.time for record in log.records]
    assert times == sorted(times) and log.dropped == 0
    assert driven.malloc(0) == 0 and len(driven.read().records) == 5  # an empty tensor has no block


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
    assert [record.address for record in log.records] == list(range(16, 26))


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
    log = driven.read()
    assert len(log.records) == 2 * 8 * 500
    live: set[int] = set()
    for record in log.records:
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
from memgraph.capture import hook
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
    assert [record.size for record in hook_log.read(tmp_path / "log").records] == list(range(1, 101))


def test_beyond_the_limit_torch_is_told_in_its_own_way(runtime: Path, tmp_path: Path) -> None:
    """c10::OutOfMemoryError goes through C code up to whoever catches it; here nobody does, and C++ ends the process
    naming it. 1 + 2 + … + 100 = 5050 bytes are there when the next 1,000 do not fit below 6,000."""
    done = child(runtime, tmp_path / "log", 6_000, "library.memgraph_hook_malloc(1000, 0, None)")
    assert done.returncode == -signal.SIGABRT
    assert "c10::OutOfMemoryError" in done.stderr and "CUDA out of memory. Tried to allocate" in done.stderr
    last = hook_log.read(tmp_path / "log").records[-1]
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
    first = driven.malloc(1000)
    driven.mark(1)
    second = driven.malloc(500)
    driven.free(first, 1000)
    driven.free(second, 500)
    run = hook_log.to_run(driven.read(), device=0)
    trace = Trace("measured", "h200", 2**30, "2.11.0", {}, (), run.buffers, run.events, ())
    trace.self_check()
    assert [buffer.size for buffer in trace.buffers] == [1000, 500]
    assert trace.peak[:3] == (1500, 1500, 1500)
    assert run.events[run.marks[1]].action is Action.SEGMENT_ALLOC  # taken for the 500
    assert trace.live_at(len(trace.events) - 1) == ()


@given(st.binary(max_size=400), st.integers(0, 300))
def test_a_damaged_log_is_one_clear_error_or_read(content: bytes, cut: int) -> None:
    import tempfile

    good = b"memghook" + (1).to_bytes(8, "little") + (4).to_bytes(8, "little") + (4).to_bytes(8, "little") + bytes(32)
    with tempfile.TemporaryDirectory() as folder:
        for data in (content, (good + content)[: cut + len(good) // 2], good + (content * 4)[: 4 * 56]):
            path = Path(folder) / "log"
            path.write_bytes(data)
            with contextlib.suppress(TraceError):
                hook_log.to_run(hook_log.read(path), 0)


def test_without_a_runtime_it_says_so(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", "import sys\nfrom pathlib import Path\nfrom memgraph.capture import hook\n"
         "try: hook.open_log(Path(sys.argv[1]))\nexcept Exception as error: print(type(error).__name__, error)",
         str(tmp_path / "log")],
        capture_output=True, text=True, check=True, env={**os.environ},
    )  # fmt: skip
    assert done.stdout == "MemgraphError the allocator hook cannot be used: there is no CUDA runtime\n"
