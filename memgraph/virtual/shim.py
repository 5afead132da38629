"""Builds `device.cpp` once per torch version, caches it, loads it with ctypes."""

from __future__ import annotations

import ctypes
import functools
import hashlib
import platform
import sys
from collections.abc import Callable
from pathlib import Path

import torch

from memgraph.errors import ShimError
from memgraph.virtual.compiled import build, cache_folder, compiler

SOURCE = Path(__file__).with_name("device.cpp")


@functools.cache
def load() -> ctypes.CDLL:
    """The library, built first if this torch has not been seen before.

    Raises:
        ShimError: there is no C++ compiler, the build failed, or the cache folder cannot be written.
    """
    path = library_path()
    if not path.exists():
        build(path, _command, f"the virtual device for torch {torch.__version__}", "CXX")
    try:
        library = ctypes.CDLL(str(path))
    except OSError as error:
        raise ShimError(f"cannot load {path}: {error}; delete it and try again") from error
    library.memgraph_set_stream.argtypes = [ctypes.c_int64]
    return library


@functools.cache
def current_stream() -> Callable[[], int]:
    """Asks the library for the number of the stream that is current in this thread: at each allocation, and too short a
    question to let go of Python's lock for it."""
    load()
    ask = ctypes.PyDLL(str(library_path())).memgraph_current_stream
    ask.restype = ctypes.c_int64
    return ask


def is_loaded() -> bool:
    """Whether it is in use in this process: where a real GPU is visible it never is."""
    return load.cache_info().currsize > 0


def library_path() -> Path:
    """Where the library for this torch, this source and this platform is, or will be."""
    facts = (torch.__version__, torch.__file__, SOURCE.read_text(), platform.machine(), sys.platform)
    digest = hashlib.sha256("\0".join(facts).encode()).hexdigest()[:12]
    return cache_folder() / f"device-{torch.__version__}-{digest}.so"


def _command(output: Path) -> list[str]:
    root = Path(torch.__file__).parent
    abi = int(torch.compiled_with_cxx11_abi())
    return [
        _compiler(), "-std=c++20", "-O1", "-fPIC", "-shared", "-w", f"-D_GLIBCXX_USE_CXX11_ABI={abi}",
        f"-I{root / 'include'}", f"-I{root / 'include/torch/csrc/api/include'}",
        str(SOURCE), "-o", str(output), f"-L{root / 'lib'}", "-lc10", "-ltorch_cpu", f"-Wl,-rpath,{root / 'lib'}",
    ]  # fmt: skip


def _compiler() -> str:
    otherwise = "no C++ compiler found, and the virtual device has to be compiled once: install g++ or set CXX"
    return compiler("CXX", ("c++", "g++", "clang++"), otherwise)
