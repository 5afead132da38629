"""A real CUDA run, seen by an allocator of our own (`hook.c`), as a measured `Trace`.

`torch.cuda.memory.CUDAPluggableAllocator` puts a library's functions in the place of PyTorch's allocator. It has to be
in place before the process asks for any GPU memory, and stays until the process ends.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import hashlib
import json
import os
import platform
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch

from memgraph.capture.real.marks import Marks
from memgraph.errors import MemgraphError
from memgraph.files import hook_log
from memgraph.trace import Trace
from memgraph.virtual.compiled import build, cache_folder, compiler

SOURCE = Path(__file__).with_name("hook.c")
RECORDS = 2_000_000
"""Records that the log keeps: 96 MB of a file, some eighty of nanoVLM's steps."""

_FAILURES = {1: "its log cannot be written", 2: "there is no CUDA runtime"}


def library_path() -> Path:
    """Where the library is, or will be."""
    digest = hashlib.sha256(f"{SOURCE.read_text()}\0{platform.machine()}".encode()).hexdigest()[:12]
    return cache_folder() / f"hook-{digest}.so"


@functools.cache
def library() -> ctypes.CDLL:
    """The hook, compiled on first use.

    Raises:
        ShimError: there is no C compiler, or the build failed.
    """
    path = library_path()
    if not path.exists():
        build(path, _command, "the allocator hook", "CC")
    loaded = ctypes.CDLL(str(path))
    loaded.memgraph_hook_open.argtypes = [
        ctypes.c_char_p, ctypes.c_uint64, ctypes.c_int64, ctypes.c_char_p, ctypes.c_char_p,
    ]  # fmt: skip
    loaded.memgraph_hook_mark.argtypes = [ctypes.c_uint64]
    loaded.memgraph_hook_mark.restype = loaded.memgraph_hook_close.restype = None
    for name in ("memgraph_hook_requested", "memgraph_hook_peak", "memgraph_hook_taken"):
        getattr(loaded, name).restype = ctypes.c_int64
    return loaded


def _command(output: Path) -> list[str]:
    name = compiler("CC", ("cc", "gcc", "clang"), "no C compiler found, and the hook has to be compiled: install gcc")
    # -fexceptions: what is thrown for out of memory passes through the C functions
    return [name, "-std=c11", "-O2", "-fPIC", "-shared", "-fexceptions", "-pthread", str(SOURCE), "-o", str(output),
            "-ldl"]  # fmt: skip


def open_log(path: Path, limit: int | None = None, records: int = RECORDS) -> ctypes.CDLL:
    """Let the hook write to this file from here on.

    Args:
        limit: bytes that may be requested at once; beyond, allocation fails as on a smaller card.

    Raises:
        MemgraphError: the log cannot be made, or there is no CUDA runtime.
    """
    hook = library()
    torch_folder = str(Path(torch.__file__).parent / "lib")
    failed = hook.memgraph_hook_open(str(path).encode(), records, limit or 0, _cudart(), torch_folder.encode())
    if failed:
        raise MemgraphError(f"the allocator hook cannot be used: {_FAILURES.get(failed, failed)}")
    return hook


def _cudart() -> bytes:
    """The CUDA runtime that this process has loaded; the hook must use the same."""
    with contextlib.suppress(OSError):
        for line in Path("/proc/self/maps").read_text().splitlines():
            name = line.split()[-1]
            if "libcudart" in name:
                return name.encode()
    return b""


class Hook:
    """A recording in progress."""

    def __init__(self, log: Path, hook: ctypes.CDLL, settings: Mapping[str, Any], ops: bool) -> None:
        self._log, self._hook = log, hook
        self._text = log.open("ab", buffering=0)
        self._trace: Trace | None = None
        self.marks = Marks(self._say, hook.memgraph_hook_mark)
        self._say({**_about(settings), "ops": ops})

    def _say(self, line: Mapping[str, Any]) -> None:
        self._text.write(json.dumps(line).encode() + b"\n")

    def mark(self, phase: str) -> None:
        """From here on it is this phase; `input` begins the next step."""
        self.marks.phase(phase)

    @property
    def trace(self) -> Trace:
        """The recording, once it is over."""
        if self._trace is None:
            raise MemgraphError("the recording is still running: leave its `with` block first")
        return self._trace

    def finish(self) -> None:
        """Turn the log into a trace."""
        self._hook.memgraph_hook_close()
        self._text.close()
        self._trace = hook_log.load(self._log)


def _about(settings: Mapping[str, Any]) -> Mapping[str, Any]:
    device = torch.cuda.current_device()
    properties = torch.cuda.get_device_properties(device)
    return {
        "gpu": properties.name, "memory": properties.total_memory, "device": device, "torch": torch.__version__,
        "settings": dict(settings),
    }  # fmt: skip


@contextlib.contextmanager
def record_hook(
    settings: Mapping[str, Any], limit: int | None = None, log: Path | None = None, *, ops: bool = False
) -> Iterator[Hook]:
    """Record what is asked of the hook while open.

    Args:
        limit: bytes that may be requested at once.
        ops: ops will be marked, which the trace then says.
        log: keep the log here; default a temporary file, that is left only if the process dies.

    Raises:
        MemgraphError: there is no GPU, or this process has used its memory already.
    """
    require_gpu()
    path = log if log is not None else _temporary()
    recording = Hook(path, _opened(path, limit), settings, ops)
    recording.mark("load")
    try:
        yield recording
    finally:
        with contextlib.suppress(RuntimeError):  # after an error of a kernel every call fails; the log is whole
            torch.cuda.synchronize()
        recording.finish()
        if log is None:
            path.unlink()


def _opened(path: Path, limit: int | None) -> ctypes.CDLL:
    hook = open_log(path, limit)
    try:
        install()
    except MemgraphError:
        hook.memgraph_hook_close()
        path.unlink()
        raise
    return hook


def require_gpu() -> None:
    """Raises:
    MemgraphError: there is no GPU.
    """
    if not torch.cuda.is_available():
        raise MemgraphError("no GPU is visible, so there is nothing to record: `memgraph analyze` predicts without one")


def _temporary() -> Path:
    handle, name = tempfile.mkstemp(suffix=".memgraph-hook")
    os.close(handle)
    return Path(name)


@functools.cache
def install() -> None:
    """Put the hook in the place of PyTorch's allocator, for the rest of the process.

    Raises:
        MemgraphError: the process has used GPU memory already.
    """
    library()
    allocator = torch.cuda.memory.CUDAPluggableAllocator(
        str(library_path()), "memgraph_hook_malloc", "memgraph_hook_free"
    )
    try:
        torch.cuda.memory.change_current_allocator(allocator)
    except RuntimeError as error:
        raise MemgraphError(
            "this process has used GPU memory already, so its allocator cannot be changed: record in a fresh process"
        ) from error
